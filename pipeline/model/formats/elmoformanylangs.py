"""Read the weights of ELMoForManyLangs' models (github.com/HIT-SCIR/ELMoForManyLangs, Che et al. 2018).

token_embedder.pkl and encoder.pkl are state dicts of torch. Names and shapes: docs/reference/formats.md. The rest of a
model's folder: many_langs_settings.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.characters import Dictionary
from pipeline.config.schema import require
from pipeline.model.bilm import BiLM
from pipeline.model.dictionary import DictionaryModelConfig
from pipeline.model.formats.many_langs_settings import BOUNDS, REMEDY, read_settings
from pipeline.model.formats.safe_pickle import load_named_tensors
from pipeline.model.formats.weight_checks import as_float32, check_finite, check_shapes, num_filters

EMBEDDER, ENCODER = "token_embedder.pkl", "encoder.pkl"


class Entry(NamedTuple):
    """A tensor of a file, its shape, and the values of our parameters in it, each in our shape."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[tuple[str, Callable[[Tensor], Tensor]], ...]


def load_many_langs(folder: Path) -> BiLM:
    """Return the biLM of a folder. Raises ConfigError that names the file and what does not fit."""
    config, characters = read_settings(folder)
    state: dict[str, Tensor] = {}
    for file, table in ((EMBEDDER, embedder_table), (ENCODER, encoder_table)):
        state |= _read_tensors(folder / file, lambda table=table: table(config, characters))  # type: ignore[misc]
    with torch.device("meta"):
        bilm = BiLM(config)
    bilm.load_state_dict(state, assign=True)
    return bilm.eval().requires_grad_(False)


def embedder_table(config: DictionaryModelConfig, characters: tuple[str, ...]) -> Iterator[Entry]:
    """Yield the tensors of token_embedder.pkl. characters: of char.dic, by their ids there."""
    dictionary, filters = config.dictionary, num_filters(config)
    if dictionary.words:
        size = (len(dictionary.words), dictionary.word_dim)
        yield _entry("word_emb_layer.embedding.weight", size, ("encoder.word_embed", _as_it_is))
    ids = _ids_of(characters, dictionary)

    def by_our_ids(weight: Tensor) -> Tensor:
        return weight.new_zeros(dictionary.num_characters, config.character_dim).index_copy(0, ids, weight)

    yield _entry(
        "char_emb_layer.embedding.weight", (len(characters), config.character_dim), ("encoder.char_embed", by_our_ids)
    )
    for k, (width, number) in enumerate(config.filters):
        name = f"convolutions.{k}"
        yield _entry(f"{name}.weight", (number, config.character_dim, width), (f"encoder.{name}.weight", _as_it_is))
        yield _entry(f"{name}.bias", (number,), (f"encoder.{name}.bias", _as_it_is))
    for k in range(config.num_highway):
        for part, columns in (("weight", (filters,)), ("bias", ())):
            ours = f"encoder.highways.{k}"
            halves = (f"{ours}.transform.{part}", _first_half), (f"{ours}.carry.{part}", _second_half_negated)
            yield _entry(f"highways._layers.{k}.{part}", (2 * filters, *columns), *halves)
    inputs, outputs = dictionary.word_dim + filters, config.projection_dim
    yield _entry("projection.weight", (outputs, inputs), ("encoder.projection.weight", _as_it_is))
    yield _entry("projection.bias", (outputs,), ("encoder.projection.bias", _as_it_is))


def encoder_table(config: DictionaryModelConfig, characters: tuple[str, ...] = ()) -> Iterator[Entry]:
    """Yield the tensors of encoder.pkl; the part `layers.{k}.bias.{d}` is direction d of `layers.{k}.bias`."""
    cells, outputs = config.lstm_dim, config.projection_dim
    for k in range(config.num_layers):
        for d, direction in enumerate(("forward", "backward")):
            theirs, ours = f"{direction}_layer_{k}", f"layers.{k}"
            gates = (4 * cells, outputs)
            yield _entry(f"{theirs}.input_linearity.weight", gates, (f"{ours}.weight_input.{d}", _gates))
            yield _entry(f"{theirs}.state_linearity.weight", gates, (f"{ours}.weight_recurrent.{d}", _gates))
            yield _entry(f"{theirs}.state_linearity.bias", (4 * cells,), (f"{ours}.bias.{d}", _bias))
            yield _entry(f"{theirs}.state_projection.weight", (outputs, cells), (f"{ours}.weight_proj.{d}", Tensor.t))


def _entry(name: str, shape: tuple[int, ...], *parts: tuple[str, Callable[[Tensor], Tensor]]) -> Entry:
    return Entry(name, shape, parts)


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _first_half(tensor: Tensor) -> Tensor:
    """Return the values of the transform, which stand before those of the gate."""
    return tensor.chunk(2)[0]


def _second_half_negated(tensor: Tensor) -> Tensor:
    """Return our gate: the share of the transform; theirs is the share of the input (modules/highway.py)."""
    return -tensor.chunk(2)[1]


def _in_our_order(gates: Tensor) -> Tensor:
    """Turn the gates i, f, j, o of modules/lstm_cell_with_projection.py into i, j, f, o."""
    i, f, j, o = gates.chunk(4)
    return torch.cat([i, j, f, o])


def _gates(weight: Tensor) -> Tensor:
    return _in_our_order(weight).t()


def _bias(bias: Tensor) -> Tensor:
    """Return the bias without the 1.0 that is added to our forget gate at run time."""
    i, f, j, o = bias.chunk(4)
    return torch.cat([i, j, f - 1, o])


def _ids_of(characters: tuple[str, ...], dictionary: Dictionary) -> Tensor:
    """Return (characters,): our id of each of their ids."""
    ours = {character: dictionary.id_of(number) for number, character in enumerate(dictionary.characters)}
    return torch.tensor([(BOUNDS | ours)[character] for character in characters])


def _read_tensors(path: Path, table: Callable[[], Iterator[Entry]]) -> dict[str, Tensor]:
    """Return our parameters in a state dict that has exactly the tensors of a table. Nothing in it is executed."""
    require(path.is_file(), f"{path}: no such file; {REMEDY}")
    found = {str(name)[:200]: tensor for name, tensor in load_named_tensors(path, REMEDY).items()}
    for name, tensor in found.items():
        is_plain = tensor.layout == torch.strided and tensor.is_floating_point() and not tensor.is_quantized
        is_whole = is_plain and tensor.untyped_storage().nbytes() >= tensor.numel() * tensor.element_size()
        require(is_whole, f"{path}: {name} does not hold the numbers that its shape asks for; {REMEDY}")
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    check_shapes(shapes, ((entry.name, entry.shape) for entry in table()), str(path), "its settings and dictionaries")
    found = as_float32(found, str(path))
    check_finite(found, str(path))
    state: dict[str, Tensor] = {}
    for entry in table():
        for name, part in entry.parts:
            state[name] = part(found[entry.name]).contiguous()
    return _with_directions_joined(state)


def _with_directions_joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack NAME.0 and NAME.1 of the LSTM layers as NAME."""
    joined = {name: tensor for name, tensor in state.items() if not name.startswith("layers.")}
    for name in (name for name in state if name.startswith("layers.") and name.endswith(".0")):
        stem = name.removesuffix(".0")
        joined[stem] = torch.stack([state[name], state[f"{stem}.1"]])
    return joined
