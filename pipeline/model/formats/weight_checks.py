"""Check a model's weights (names, shapes, dtype, finite values) before anything is built or allocated."""

import logging
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from pipeline.characters import NUM_CHARACTERS
from pipeline.config.schema import ModelConfig, require
from pipeline.model.dictionary import dictionary_of

log = logging.getLogger(__name__)
Shape = tuple[int, ...]
LARGEST_SIZE = 1 << 40  # of one dimension; larger numbers are damage, and too long for a message


def has_projection(config: ModelConfig) -> bool:
    """Return whether the token encoder ends in a projection (bilm-tf training.py:230)."""
    return num_filters(config) != config.projection_dim or dictionary_of(config) is not None


def num_filters(config: ModelConfig) -> int:
    return sum(number for _, number in config.filters)


def parameter_shapes(config: ModelConfig, vocab_size: int = 0) -> Iterator[tuple[str, Shape]]:
    """Yield name and shape of every parameter of `LanguageModel(config, vocab_size)`, of `BiLM(config)` if it is 0.

    It is a generator, so a caller that stops at the first mismatch spends no time on a config of absurd sizes.
    """
    filters, cells, outputs = num_filters(config), config.lstm_dim, config.projection_dim
    dictionary = dictionary_of(config)
    num_characters = dictionary.num_characters if dictionary else NUM_CHARACTERS
    word_dim = dictionary.word_dim if dictionary else 0
    yield "encoder.char_embed", (num_characters, config.character_dim)
    if dictionary and word_dim:
        yield "encoder.word_embed", (len(dictionary.words), word_dim)
    for k, (width, number) in enumerate(config.filters):
        yield f"encoder.convolutions.{k}.weight", (number, config.character_dim, width)
        yield f"encoder.convolutions.{k}.bias", (number,)
    for k in range(config.num_highway):
        for part in ("transform", "carry"):
            yield f"encoder.highways.{k}.{part}.weight", (filters, filters)
            yield f"encoder.highways.{k}.{part}.bias", (filters,)
    if has_projection(config):
        yield "encoder.projection.weight", (outputs, word_dim + filters)
        yield "encoder.projection.bias", (outputs,)
    for k in range(config.num_layers):
        yield f"layers.{k}.bias", (2, 4 * cells)
        yield f"layers.{k}.weight_input", (2, outputs, 4 * cells)
        yield f"layers.{k}.weight_recurrent", (2, outputs, 4 * cells)
        yield f"layers.{k}.weight_proj", (2, cells, outputs)
    if vocab_size:
        yield "softmax.weight", (vocab_size, outputs)
        yield "softmax.bias", (vocab_size,)


def check_shapes(found: Mapping[str, Shape], wanted: Iterable[tuple[str, Shape]], where: str, settings: str) -> None:
    """Raise ConfigError for the first tensor that is missing, unexpected or of another shape.

    where: the file of the weights. settings: the file that `wanted` comes from. `wanted` is read up to the first fault.
    """
    left = set(found)
    for name, shape in wanted:
        _check_shape(name, found.get(name, "absent"), shape, where, settings)
        left.discard(name)
    for name in sorted(left):
        _check_shape(name, found[name], "absent", where, settings)


def _check_shape(name: str, found: Shape | str, wanted: Shape | str, where: str, settings: str) -> None:
    require(
        found == wanted,
        f"{where}: {name} is {found}, and {wanted} by {settings}; copy both again from where they belong together",
    )


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise ConfigError naming the first tensor that holds NaN or an infinite value."""
    for name, tensor in tensors.items():
        require(
            not tensor.numel() or all(bool(bound.isfinite()) for bound in torch.aminmax(tensor)),
            f"{where}: {name} holds NaN or infinite values, as weights have after a failed training or a damaged copy; "
            "use other weights",
        )


def as_float32(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return the tensors in float32; log a warning if float64 is rounded."""
    rounded = [name for name, tensor in tensors.items() if tensor.dtype == torch.float64]
    if rounded:
        log.warning("%s: %s of float64 rounded to float32, in which this project computes", where, some(rounded))
    return {name: tensor.float() for name, tensor in tensors.items()}


def some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and more" if len(names) > 3 else "")
