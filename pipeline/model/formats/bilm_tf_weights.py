"""Convert between bilm-tf's and AllenNLP's HDF5 weights and ours: one table of names for both directions.

The file holds float32 arrays in TF's layout, without the softmax (bilm-tf training.py, dump_weights). options.json
beside it describes the architecture (bilm_tf_options.py). Names and shapes: docs/reference/formats.md.
"""

import io
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.dataset.files import atomic_file
from pipeline.characters import NUM_CHARACTERS
from pipeline.config.schema import ConfigError, ModelConfig, require
from pipeline.model.bilm import BiLM
from pipeline.model.formats.weight_checks import check_finite, has_projection, num_filters, some

log = logging.getLogger(__name__)
View = Callable[[Tensor], Tensor]
_MAX_COMPRESSION = 1100  # deflate compresses 1,032 times at most: a smaller file cannot hold the values
_CELL = "RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"


class Part(NamedTuple):
    """A parameter in the file. view(our tensor) has the file's shape; writes to the view change our tensor."""

    parameter: str
    view: View


class Entry(NamedTuple):
    """A dataset of the file and its shape. Its rows are the rows of its parts, one part after the other."""

    dataset: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def name_table(config: ModelConfig) -> Iterator[Entry]:
    """Yield every dataset of a model and the parameters that hold its values. Only this function knows both formats.

    It is a generator, so a config of a billion layers costs no memory.
    """
    filters, outputs, cells = num_filters(config), config.projection_dim, config.lstm_dim
    yield _entry("char_embed", (NUM_CHARACTERS, config.character_dim), ("encoder.char_embed", _as_it_is))
    for k, (width, number) in enumerate(config.filters):
        ours = f"encoder.convolutions.{k}"
        yield _entry(f"CNN/W_cnn_{k}", (1, width, config.character_dim, number), (f"{ours}.weight", _convolution))
        yield _entry(f"CNN/b_cnn_{k}", (number,), (f"{ours}.bias", _as_it_is))
    for k in range(config.num_highway):
        for part in ("carry", "transform"):
            ours = f"encoder.highways.{k}.{part}"
            yield _entry(f"CNN_high_{k}/W_{part}", (filters, filters), (f"{ours}.weight", Tensor.t))
            yield _entry(f"CNN_high_{k}/b_{part}", (filters,), (f"{ours}.bias", _as_it_is))
    if has_projection(config):
        yield _entry("CNN_proj/W_proj", (filters, outputs), ("encoder.projection.weight", Tensor.t))
        yield _entry("CNN_proj/b_proj", (outputs,), ("encoder.projection.bias", _as_it_is))
    for direction, view in enumerate((_forward, _backward)):
        for k in range(config.num_layers):
            cell, ours = _CELL.format(direction=direction, layer=k), f"layers.{k}"
            gates = ((f"{ours}.weight_input", view), (f"{ours}.weight_recurrent", view))
            yield _entry(f"{cell}/W_0", (2 * outputs, 4 * cells), *gates)
            yield _entry(f"{cell}/B", (4 * cells,), (f"{ours}.bias", view))  # without the 1.0 that TF adds to f
            yield _entry(f"{cell}/W_P_0", (cells, outputs), (f"{ours}.weight_proj", view))


def _entry(dataset: str, shape: tuple[int, ...], *parts: tuple[str, View]) -> Entry:
    return Entry(dataset, shape, tuple(Part(*part) for part in parts))


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _convolution(weight: Tensor) -> Tensor:
    """Return (number, dim, width) as (1, width, dim, number)."""
    return weight.permute(2, 1, 0).unsqueeze(0)


def _forward(both: Tensor) -> Tensor:
    return both[0]


def _backward(both: Tensor) -> Tensor:
    return both[1]


def load_bilm(path: Path, config: ModelConfig) -> BiLM:
    """Return the biLM of an HDF5 file, without softmax. Raises ConfigError that names the wrong dataset."""
    with _open_hdf5(path) as file:
        found = _datasets(file)
        unprojected = _lacks_lstm_projection(found, config)
        if unprojected:
            config = replace(config, proj_clip=None)
        table = _checked_table(path, found, config, unprojected)
        with torch.device("meta"):
            bilm = BiLM(config)
        state = {name: torch.empty(tensor.shape) for name, tensor in bilm.state_dict().items()}
        for k in range(config.num_layers if unprojected else 0):
            state[f"layers.{k}.weight_proj"].copy_(torch.eye(config.lstm_dim))
        for entry in table:
            _read_dataset(path, found[entry.dataset], entry, state)
        if any(found[entry.dataset].dtype.itemsize > 4 for entry in table):
            log.warning("weights=%s: float64 is rounded to float32, in which this project computes", path)
    bilm.load_state_dict(state, assign=True)
    return bilm.eval().requires_grad_(False)


def _checked_table(path: Path, found: dict[str, Any], config: ModelConfig, unprojected: bool) -> list[Entry]:
    """Return the table, after a check that the file holds exactly its datasets, complete and in their shapes."""
    entries = (entry for entry in name_table(config) if not (unprojected and entry.dataset.endswith("/W_P_0")))
    table = list(islice(entries, len(found) + 1))  # one more than the file holds shows what is missing
    _check_names(path, {entry.dataset for entry in table}, found.keys())
    for entry in table:
        _check_dataset(path, found[entry.dataset], entry)
    return table


def save_weights(path: Path, bilm: BiLM) -> None:
    """Write all parameters except the softmax to an HDF5 file, as bilm-tf does.

    Raises ConfigError for weights that are not finite.
    """
    state, content = bilm.core().state_dict(), io.BytesIO()  # in memory: on a full disk h5py would crash the process
    check_finite(state, "this model")
    with _h5py().File(content, "w") as file:
        for entry in name_table(bilm.config):
            values = torch.cat([part.view(state[part.parameter]) for part in entry.parts])
            file.create_dataset(entry.dataset, data=values.float().cpu().numpy())
    with atomic_file(path) as target:
        target.write(content.getbuffer())


def _h5py() -> Any:
    try:
        import h5py
    except ImportError:
        raise ConfigError("HDF5 weights need h5py: pip install 'elmo-pipeline[weights]'") from None
    return h5py


@contextmanager
def _open_hdf5(path: Path) -> Iterator[Any]:
    require(path.is_file(), f"weights={path}: no such file; give the HDF5 file that lies beside the options")
    try:
        with _h5py().File(path, "r") as file:
            yield file
    except ConfigError:
        raise
    except Exception as error:  # h5py raises OSError, RuntimeError, KeyError, ValueError, ... for damaged files
        reason = " ".join(str(error).strip("'\"").split())[:200]
        raise ConfigError(f"weights={path} is not a whole HDF5 file ({reason}); copy it again") from None


def _datasets(file: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        if hasattr(item, "dtype"):
            found[name] = item

    file.visititems(visit)
    return found


def _check_names(path: Path, wanted: set[str], found: Collection[str]) -> None:
    missing, extra = sorted(wanted.difference(found)), sorted(set(found) - wanted)
    remedy = "give the options.json that it came with"
    require(not missing, f"weights={path} lacks {some(missing)}, which the options ask for; {remedy}")
    require(not extra, f"weights={path} holds {some(extra)}, for which the options have no place; {remedy}")


def _lacks_lstm_projection(found: dict[str, Any], config: ModelConfig) -> bool:
    """Return whether TF's cell has no projection, and no clip after it: its output has the same size (model.py:396)."""
    return config.projection_dim == config.lstm_dim and not any(name.endswith("/W_P_0") for name in found)


def _check_dataset(path: Path, dataset: Any, entry: Entry) -> None:
    where = f"weights={path}: {entry.dataset}"
    require(
        dataset.dtype.kind == "f" and dataset.dtype.itemsize in (2, 4, 8),
        f"{where} is of {dataset.dtype}, and must be of float32, float16 or float64; write it as such",
    )
    require(
        dataset.shape == entry.shape,
        f"{where} has shape {dataset.shape}, and {entry.shape} by its options; give the options.json that it came with",
    )
    require(
        not dataset.external and not dataset.is_virtual,
        f"{where} takes its values from another file; copy them into this one",
    )
    require(
        dataset.id.get_storage_size() * _MAX_COMPRESSION >= dataset.nbytes,
        f"{where} holds none or too few of the values that its shape asks for; copy the file again",
    )


def _read_dataset(path: Path, dataset: Any, entry: Entry, state: dict[str, Tensor]) -> None:
    with np.errstate(over="ignore"):  # values too large for float32 become infinite, which is checked below
        values = torch.from_numpy(np.asarray(dataset[...], dtype=np.float32))
    check_finite({entry.dataset: values}, f"weights={path}")
    views = [part.view(state[part.parameter]) for part in entry.parts]
    for view, rows in zip(views, values.split([len(view) for view in views]), strict=True):
        view.copy_(rows)
