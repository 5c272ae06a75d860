"""The softmax's pointwise work on a GPU, in Triton: see triton_kernels.py."""

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr, tensor

from pipeline.model.backend.triton_kernels import INTERPRETED

_COLUMNS = 512 if INTERPRETED else 4096  # logits of a row at once


def add_exponentials(logits: Tensor, bias: Tensor, hits: Tensor, top: Tensor, total: Tensor) -> None:
    """Add exp(logits (N, C) + bias (C,)) to running sums: the log of a sum is top + log(total), both (N,) float32.

    hits (N,): the column of each row that is left out, or -1.
    """
    _add_exponentials[(len(logits),)](logits, bias, hits, top, total, logits.shape[1], BLOCK=_COLUMNS)


def to_probabilities_(logits: Tensor, bias: Tensor, hits: Tensor, normaliser: Tensor) -> None:
    """Turn logits (N, C) into exp(logits + bias - normaliser) in place, 0 at the hits."""
    grid = (len(logits), triton.cdiv(logits.shape[1], _COLUMNS))
    _to_probabilities[grid](logits, bias, hits, normaliser, logits.shape[1], BLOCK=_COLUMNS)


@triton.jit
def _row(logits: tensor, bias: tensor, at: tensor, hit: tensor, number: tensor) -> tensor:
    """Return columns `at` of a row with bias added; -inf after the last column and at the hit."""
    mask = at < number
    value = tl.load(logits + at, mask, 0.0).to(tl.float32) + tl.load(bias + at, mask, 0.0)
    return tl.where(mask & (at != hit), value, -float("inf"))


@triton.jit
def _add_exponentials(
    logits: tensor, bias: tensor, hits: tensor, top: tensor, total: tensor, number: tensor, BLOCK: constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    hit, most, exponentials = tl.load(hits + row), tl.load(top + row), tl.load(total + row)
    for start in range(0, number, BLOCK):
        value = _row(logits + row * number, bias, start + tl.arange(0, BLOCK), hit, number)
        higher = tl.maximum(most, tl.max(value, 0))
        exponentials = exponentials * tl.exp(most - higher) + tl.sum(tl.exp(value - higher), 0)
        most = higher
    tl.store(top + row, most)
    tl.store(total + row, exponentials)


@triton.jit
def _to_probabilities(
    logits: tensor, bias: tensor, hits: tensor, normaliser: tensor, number: tensor, BLOCK: constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    value = _row(logits + row * number, bias, at, tl.load(hits + row), number)
    share = tl.exp(value - tl.load(normaliser + row))
    tl.store(logits + row * number + at, share.to(logits.dtype.element_ty), at < number)
