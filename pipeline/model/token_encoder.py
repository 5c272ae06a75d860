"""Character CNN, highway layers and projection: from spellings of words to context-free vectors.

Source: bilm-tf training.py:142-333. Each word is encoded once, even if a window holds it many times.
"""

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.characters import NUM_CHARACTERS, PAD, UTF8, Alphabet
from pipeline.model.backend.char_cnn import convolve_by_matmul, convolve_by_tables, widest
from pipeline.model.backend.device import upload
from pipeline.model.backend.matmul import compute_dtype, linear

BUCKET_LENGTHS = (6, 9, 13)  # in characters, both word bounds included; about equal parts of English unique words
_WORD_MULTIPLE, _LENGTH_MULTIPLE = 16, 4


class TokenEncoder(nn.Module):
    """Encode words (U, C) of character ids into vectors (U, P). alphabet: what spells the words."""

    alphabet: Alphabet = UTF8

    def __init__(
        self,
        *,
        character_dim: int,
        filters: list[tuple[int, int]],
        activation: Literal["relu", "tanh"],
        num_highway: int,
        proj_dim: int,
        num_characters: int = NUM_CHARACTERS,
    ) -> None:
        """filters: (width in characters, number) of each convolution. Without a projection if it would be square."""
        super().__init__()
        num_filters = sum(number for _, number in filters)
        self.activation = activation
        self.char_embed = nn.Parameter(torch.empty(num_characters, character_dim))
        self.convolutions = nn.ModuleList(nn.Conv1d(character_dim, number, width) for width, number in filters)
        self.highways = nn.ModuleList(Highway(num_filters) for _ in range(num_highway))
        self.projection = nn.Linear(num_filters, proj_dim) if num_filters != proj_dim else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as bilm-tf does (training.py:168-283)."""
        nn.init.uniform_(self.char_embed, -1.0, 1.0)
        for convolution in self.convolutions:
            _init_convolution(convolution, self.activation)
        if self.projection is not None:
            nn.init.normal_(self.projection.weight, std=1 / math.sqrt(self.projection.in_features))
            nn.init.zeros_(self.projection.bias)

    def forward(self, characters_uc: Tensor, lengths_u: Tensor | None = None) -> Tensor:
        """Encode (U, C) character ids into (U, P), P the projection dimension.

        lengths_u: `word_lengths` on the CPU, if known there; then the CPU does not wait for a GPU to compute them.
        """
        features = self._features(fill(characters_uc), lengths_u)
        if self.projection is not None:
            features = linear(features, self.projection.weight, self.projection.bias)
        return features[: len(characters_uc)]

    def _features(self, characters_uc: Tensor, lengths_u: Tensor | None) -> Tensor:
        """Return (U, filters): what the projection reads."""
        features = self._convolve(characters_uc, lengths_u)
        for highway in self.highways:
            features = highway(features)
        return features

    def _convolve(self, characters_uc: Tensor, lengths_u: Tensor | None = None) -> Tensor:
        """Return (U, filters): the maximum of every filter over all windows of C characters, then the activation.

        A word of n ids before its padding needs n + 1 windows only: all windows of padding alone are equal.
        """
        on_cpu = characters_uc.device.type == "cpu"
        lengths = word_lengths(characters_uc).cpu() if on_cpu or lengths_u is None else lengths_u
        order = torch.argsort(lengths, stable=True)
        groups = self._groups(lengths[order], characters_uc.shape[1])
        by_length, back = (upload(places, characters_uc.device) for places in (order, torch.argsort(order)))
        convolve = convolve_by_tables if on_cpu else convolve_by_matmul
        maxima = convolve(characters_uc[by_length], groups, self.char_embed, self._convolutions())
        maxima = maxima.index_select(0, back)
        maxima = maxima.to(compute_dtype(maxima))
        return maxima.relu() if self.activation == "relu" else maxima.tanh()

    def _convolutions(self) -> list[nn.Conv1d]:
        return cast(list[nn.Conv1d], list(self.convolutions))

    def _groups(self, lengths: Tensor, characters: int) -> list[tuple[int, int]]:
        """Return (words, windows of each word) of each group. lengths (U,): rising. characters: C, the most windows."""
        bounds = torch.tensor(BUCKET_LENGTHS)
        ends = [*torch.searchsorted(lengths, bounds, right=True).tolist(), len(lengths)]
        longest = [*BUCKET_LENGTHS, _round_up(int(lengths[-1]), _LENGTH_MULTIPLE) if len(lengths) else 0]
        width = widest(self._convolutions())
        # Words so long that their windows would reach beyond the last character get all windows.
        windows = [length + 1 if length + width <= characters else characters for length in longest]
        return [(end - start, count) for start, end, count in zip([0, *ends], ends, windows, strict=False)]


def word_lengths(characters_uc: Tensor) -> Tensor:
    """Return (U,): the ids of each word before its padding."""
    return (characters_uc != PAD).sum(1)


def fill(characters_uc: Tensor) -> Tensor:
    """Append words of padding, on a CPU, up to a multiple of _WORD_MULTIPLE; the caller drops their vectors.

    oneDNN compiles a kernel for each new shape. Steps hold ever other numbers of words: without padding, compiling
    takes about 2 % of a small model's step.
    """
    more = -len(characters_uc) % _WORD_MULTIPLE if characters_uc.device.type == "cpu" else 0
    return F.pad(characters_uc, (0, 0, 0, more), value=PAD) if more else characters_uc


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class Highway(nn.Module):
    """y = g * relu(transform(x)) + (1 - g) * x with g = sigmoid(carry(x)) (training.py:261-264)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.transform = nn.Linear(dim, dim)
        self.carry = nn.Linear(dim, dim)
        for part, bias in ((self.transform, 0.0), (self.carry, -2.0)):
            nn.init.normal_(part.weight, std=1 / math.sqrt(dim))
            nn.init.constant_(part.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(linear(x, self.carry.weight, self.carry.bias))
        return torch.lerp(x, linear(x, self.transform.weight, self.transform.bias).relu(), gate)


def _init_convolution(convolution: nn.Module, activation: str) -> None:
    assert isinstance(convolution, nn.Conv1d) and convolution.bias is not None
    if activation == "relu":
        nn.init.uniform_(convolution.weight, -0.05, 0.05)
    else:
        fan = convolution.kernel_size[0] * convolution.in_channels
        nn.init.normal_(convolution.weight, std=1 / math.sqrt(fan))
    nn.init.zeros_(convolution.bias)
