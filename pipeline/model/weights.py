"""bilm-tf's and AllenNLP's HDF5 weights <-> ours: one table of names, read in both directions.

The file holds float32 arrays TF's way round, without the softmax (bilm-tf training.py, dump_weights). Beside it
lies options.json (options.py). What stands where: docs/reference/formats.md.
"""

import io
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data_prep.files import atomic_file
from pipeline.config import ConfigError, ModelConfig, require
from pipeline.model.bilm import BiLM

View = Callable[[Tensor], Tensor]
_CELL = "RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"


class Part(NamedTuple):
    """A parameter as it lies in the file: `view` of our tensor has the file's shape, and writes to it go through."""

    parameter: str
    view: View


class Entry(NamedTuple):
    """A dataset of the file: its rows are those of its parts, one under the other."""

    dataset: str
    parts: tuple[Part, ...]


def name_table(config: ModelConfig) -> list[Entry]:
    """Every dataset of a model, and where its values are in ours. The one place that knows both formats."""
    table: list[tuple[str, list[tuple[str, View]]]] = [("char_embed", [("encoder.char_embed", _as_it_is)])]
    for k in range(len(config.filters)):
        table += [
            (f"CNN/W_cnn_{k}", [(f"encoder.convolutions.{k}.weight", _convolution)]),
            (f"CNN/b_cnn_{k}", [(f"encoder.convolutions.{k}.bias", _as_it_is)]),
        ]
    for k in range(config.num_highway):
        for part in ("carry", "transform"):
            table += [
                (f"CNN_high_{k}/W_{part}", [(f"encoder.highways.{k}.{part}.weight", Tensor.t)]),
                (f"CNN_high_{k}/b_{part}", [(f"encoder.highways.{k}.{part}.bias", _as_it_is)]),
            ]
    if has_projection(config):
        table += [
            ("CNN_proj/W_proj", [("encoder.projection.weight", Tensor.t)]),
            ("CNN_proj/b_proj", [("encoder.projection.bias", _as_it_is)]),
        ]
    for direction, view in enumerate((_forward, _backward)):
        for k in range(config.num_layers):
            cell = _CELL.format(direction=direction, layer=k)
            table += [
                (f"{cell}/W_0", [(f"layers.{k}.weight_input", view), (f"layers.{k}.weight_recurrent", view)]),
                (f"{cell}/B", [(f"layers.{k}.bias", view)]),  # without the 1.0 that TF adds to the forget gate
                (f"{cell}/W_P_0", [(f"layers.{k}.weight_proj", view)]),
            ]
    return [Entry(dataset, tuple(Part(*part) for part in parts)) for dataset, parts in table]


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _convolution(weight: Tensor) -> Tensor:
    """(number, dim, width) as (1, width, dim, number)."""
    return weight.permute(2, 1, 0).unsqueeze(0)


def _forward(both: Tensor) -> Tensor:
    return both[0]


def _backward(both: Tensor) -> Tensor:
    return both[1]


def has_projection(config: ModelConfig) -> bool:
    """Whether the token encoder ends in one (bilm-tf training.py:230)."""
    return sum(number for _, number in config.filters) != config.projection_dim


def load_bilm(path: Path, config: ModelConfig) -> BiLM:
    """The biLM, without softmax, of an HDF5 file. Raises ConfigError naming the dataset that is not right."""
    table = name_table(config)
    with _open_hdf5(path) as file:
        found = _datasets(file)
        unprojected = _lacks_lstm_projection(found, config)
        if unprojected:
            config = replace(config, proj_clip=None)
            table = [entry for entry in table if not entry.dataset.endswith("/W_P_0")]
        _check_names(path, {entry.dataset for entry in table}, found.keys())
        with torch.device("meta"):
            bilm = BiLM(config, 0)
        shapes = bilm.state_dict()
        state = {name: torch.empty(tensor.shape) for name, tensor in shapes.items()}
        for k in range(config.num_layers if unprojected else 0):
            state[f"layers.{k}.weight_proj"].copy_(torch.eye(config.lstm_dim))
        for entry in table:
            values = _read_dataset(path, found[entry.dataset], entry, shapes)
            for part, rows in zip(entry.parts, values, strict=True):
                part.view(state[part.parameter]).copy_(rows)
    bilm.load_state_dict(state, assign=True)
    return bilm.eval().requires_grad_(False)


def save_weights(path: Path, bilm: BiLM) -> None:
    """`path` is an HDF5 file of all parameters but the softmax, as bilm-tf writes it."""
    state, content = bilm.state_dict(), io.BytesIO()  # on a full disk h5py takes the process down with it
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
    except (OSError, RuntimeError, KeyError) as error:  # what h5py raises for damaged files
        reason = str(error).strip("'\"")
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
    require(not missing, f"weights={path} lacks {_some(missing)}, which the options ask for; {remedy}")
    require(not extra, f"weights={path} holds {_some(extra)}, for which the options have no place; {remedy}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _lacks_lstm_projection(found: dict[str, Any], config: ModelConfig) -> bool:
    """TF's cell has no projection, nor the clip after it, where its output is as large (bilm-tf model.py:396)."""
    return config.projection_dim == config.lstm_dim and not any(name.endswith("/W_P_0") for name in found)


def _read_dataset(path: Path, dataset: Any, entry: Entry, shapes: dict[str, Tensor]) -> tuple[Tensor, ...]:
    views = [part.view(shapes[part.parameter]) for part in entry.parts]
    expected = tuple(torch.cat(views).shape)
    require(
        dataset.dtype.newbyteorder("=") == np.float32,
        f"weights={path}: {entry.dataset} is of {dataset.dtype}, and must be of float32; write it as such",
    )
    require(
        dataset.shape == expected,
        f"weights={path}: {entry.dataset} has shape {dataset.shape}, and {expected} by its options; give the "
        "options.json that it came with",
    )
    values = torch.from_numpy(np.asarray(dataset[...], dtype=np.float32))
    return values.split([len(view) for view in views])
