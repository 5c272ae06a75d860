"""The rate of matrix products on this machine, and the operations that a training step needs."""

import torch

from benchmarks.measure.clock import repeat
from pipeline.config.schema import ModelConfig
from pipeline.model.backend.matmul import matmul


def matmul_rate(size: int = 1536, seconds: float = 0.5) -> float:
    """Return FLOP/s of float32 matrix products: the higher rate of torch.mm's and the model's matmul."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    out, rates = a @ b, []
    for way in (lambda: torch.mm(a, b, out=out), lambda: matmul(a, b)):
        way()
        spent = repeat(way, seconds)
        rates.append(2 * size**3 * len(spent) / sum(each.wall for each in spent))
    return max(rates)


def needed_flops(
    model: ModelConfig, candidates: int, unique_share: float, mean_characters: float | None, by_tables: bool = False
) -> float:
    """Return the floating-point operations that training needs per token: forward x 3, each unique word encoded once.

    mean_characters: of a word, without padding; None: all max_characters are convolved. by_tables: as on a CPU
    (pipeline/model/backend/char_cnn.py), where a window is a sum and only maxima have gradients.
    """
    convolution = 0.0
    for width, number in model.filters:
        windows = model.max_characters - width + 1 if mean_characters is None else mean_characters
        by_sums = by_tables and mean_characters is not None
        each = (windows + 2 * 2 * model.character_dim) / 3 if by_sums else 2 * model.character_dim * windows
        convolution += width * number * each
    filters = sum(number for _, number in model.filters)
    highway = model.num_highway * 2 * 2 * filters**2
    projection = 2 * filters * model.projection_dim if filters != model.projection_dim else 0
    softmax = 2 * 2 * candidates * model.projection_dim
    gates = 2 * 2 * model.projection_dim * 4 * model.lstm_dim
    layers = 2 * model.num_layers * (gates + 2 * model.lstm_dim * model.projection_dim)
    return 3 * (unique_share * (convolution + highway + projection) + layers + softmax)
