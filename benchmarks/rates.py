"""The rate of matrix products on this machine, and the operations that a training step needs."""

import time

import torch

from pipeline.config.schema import ModelConfig
from pipeline.model.backend.matmul import matmul


def product_rates(size: int = 1536, seconds: float = 0.5) -> dict[str, float]:
    """Return floating-point operations per second of float32 matrix products, by torch.mm and by the model's matmul.

    Shares in other benchmarks are relative to the faster of the two.
    """
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = a @ b
    ways = {"torch.mm": lambda: torch.mm(a, b, out=out), "product": lambda: matmul(a, b)}
    rates = {}
    for name, way in ways.items():
        way()
        count, begun = 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            way()
            count += 1
        rates[name] = count * 2 * size**3 / (time.perf_counter() - begun)
    return rates


def best_rate(*measured: dict[str, float]) -> float:
    """Return the higher of the two rates, each averaged over the measurements before and after the compared work."""
    return max(sum(rates[name] for rates in measured) / len(measured) for name in measured[0])


def needed_flops(
    model: ModelConfig, candidates: int, unique_share: float, mean_characters: float | None, by_tables: bool = False
) -> float:
    """Return the floating-point operations that training needs per token: forward x 3, each unique word encoded once.

    mean_characters: of a word, without padding; None: all max_characters are convolved. by_tables: as on a CPU
    (pipeline/model/backend/char_cnn.py), where a window is a sum and only maxima have gradients.
    """
    convolution = 2 * model.character_dim * sum(
        width * number * (model.max_characters - width + 1 if mean_characters is None else mean_characters)
        for width, number in model.filters
    )  # fmt: skip
    if by_tables and mean_characters is not None:
        places = sum(width * number for width, number in model.filters)
        convolution = places * (mean_characters + 2 * 2 * model.character_dim) / 3
    filters = sum(number for _, number in model.filters)
    highway = model.num_highway * 2 * 2 * filters**2
    projection = 2 * filters * model.projection_dim if filters != model.projection_dim else 0
    softmax = 2 * 2 * candidates * model.projection_dim
    return 3 * (unique_share * (convolution + highway + projection) + layers_flops(model) + softmax)


def layers_flops(model: ModelConfig) -> float:
    """Return floating-point operations of all LSTM layers per token, both directions, forward only."""
    gates = 2 * 2 * model.projection_dim * 4 * model.lstm_dim
    return 2 * model.num_layers * (gates + 2 * model.lstm_dim * model.projection_dim)
