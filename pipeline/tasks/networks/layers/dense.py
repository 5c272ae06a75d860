"""Layers without time: dropout with one mask a sequence, feed-forward layers, maxout."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class VariationalDropout(nn.Module):
    """Dropout with one mask for all words of a sequence: x (B, T, D), mask (B, 1, D)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_btd: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x_btd
        return x_btd * nn.functional.dropout(x_btd.new_ones(x_btd.shape[0], 1, x_btd.shape[2]), self.rate)


class FeedForward(nn.Sequential):
    """Dense layers, each with relu and dropout. Weights start Xavier uniform (TensorFlow's glorot), biases at 0."""

    def __init__(self, input_dim: int, hidden: Sequence[int], dropout: float = 0.0) -> None:
        dims = [input_dim, *hidden]
        layers = [(dense(*pair), nn.ReLU(), nn.Dropout(dropout)) for pair in pairwise(dims)]
        super().__init__(*(module for layer in layers for module in layer))


def dense(input_dim: int, output_dim: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer with Xavier uniform weights and zero bias."""
    layer = nn.Linear(input_dim, output_dim, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class Maxout(nn.Module):
    """Dense layers whose outputs are the maxima of `pool` linear pieces (Goodfellow et al. 2013; AllenNLP maxout.py).

    dropout: after each layer. Every layer has pieces, the last one too.
    """

    def __init__(self, input_dim: int, outputs: Sequence[int], dropout: Sequence[float], pool: int = 4) -> None:
        super().__init__()
        dims = [input_dim, *outputs]
        self.layers = nn.ModuleList(nn.Linear(a, pool * b) for a, b in pairwise(dims))
        self.dropouts = nn.ModuleList(nn.Dropout(rate) for rate in dropout)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            x = dropout(layer(x).unflatten(-1, (-1, self.pool)).amax(-1))
        return x


def sequence_cross_entropy(logits_btn: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    """Return each sequence's mean over its words, averaged over the batch (AllenNLP util.py, average="batch")."""
    losses = nn.functional.cross_entropy(logits_btn.transpose(1, 2), targets, reduction="none") * mask
    return (losses.sum(1) / mask.sum(1).clamp(min=1)).mean()


def position_in(labels: Sequence[str], rows: dict[str, int]) -> Tensor:
    """Return the rows of `labels` (B,); 0 for a label that the model does not know, as unlabelled text has."""
    return torch.tensor([rows.get(label, 0) for label in labels])
