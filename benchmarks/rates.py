"""What this machine's matrix products reach, and how many a step of training truly needs."""

import time

import torch

from pipeline.config.schema import ModelConfig
from pipeline.model.backend.matmul import product


def product_rates(size: int = 1536, seconds: float = 0.5) -> dict[str, float]:
    """Floating-point operations a second of float32 products on torch's threads: by torch.mm, and as the model does.

    The faster of the two is the machine's rate that shares are given of.
    """
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = a @ b
    ways = {"torch.mm": lambda: torch.mm(a, b, out=out), "product": lambda: product(a, b)}
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
    """The rate of the faster way, at its mean over several measurements: those before and after what is compared."""
    return max(sum(rates[name] for rates in measured) / len(measured) for name in measured[0])


def needed_flops(
    model: ModelConfig, candidates: int, unique_share: float, mean_characters: float | None, by_tables: bool = False
) -> float:
    """Floating-point operations that training needs a token: forward x 3, words encoded once each.

    mean_characters: convolved of a word, pads not at all; None: all that a word may have. by_tables: as on a CPU
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
    """Floating-point operations of all LSTM layers a token, both directions, forward only."""
    gates = 2 * 2 * model.projection_dim * 4 * model.lstm_dim
    return 2 * model.num_layers * (gates + 2 * model.lstm_dim * model.projection_dim)
