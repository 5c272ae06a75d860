"""The updates of Adagrad and Adam on a GPU, in Triton: one launch a parameter. See triton_kernels.py."""

import math

import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr, tensor

from pipeline.model.backend.triton_kernels import FLAT_BLOCK, flat_grid


def adagrad_(
    weight: Tensor, accumulator: Tensor, grad: Tensor, ids: Tensor | None, good: Tensor | None, lr: float
) -> None:
    """Update in one pass: accumulator += grad ** 2, weight -= lr * grad / sqrt(accumulator). All contiguous float32.

    ids (R,): the distinct rows of grad (R, ...); None: all rows. good () int32: 0 leaves everything unchanged.
    """
    _adagrad[flat_grid(grad)](
        weight,
        accumulator,
        grad,
        *_chosen(grad, ids, good),
        lr,
        grad.numel(),
        HAS_IDS=ids is not None,
        HAS_GOOD=good is not None,
        BLOCK=FLAT_BLOCK,
    )


def adam_(
    weight: Tensor,
    mean: Tensor,
    square: Tensor,
    grad: Tensor,
    ids: Tensor | None,
    good: Tensor | None,
    steps: Tensor,
    lr: float,
    betas: tuple[float, float],
    eps: float,
) -> None:
    """Update as adagrad_ does, by Adam's rule. steps (): number of steps, this one included."""
    _adam[flat_grid(grad)](
        weight,
        mean,
        square,
        grad,
        *_chosen(grad, ids, good),
        steps,
        lr,
        betas[1],
        *(1 - beta for beta in betas),
        *(math.log(beta) if beta else -1e4 for beta in betas),
        eps,
        grad.numel(),
        HAS_IDS=ids is not None,
        HAS_GOOD=good is not None,
        BLOCK=FLAT_BLOCK,
    )


def _chosen(grad: Tensor, ids: Tensor | None, good: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """Return ids, good (any tensor in place of None) and the number of values of a row."""
    return grad if ids is None else ids, grad if good is None else good, max(1, grad.numel() // max(1, len(grad)))


@triton.jit
def _places(
    ids: tensor, good: tensor, width: tensor, size: tensor, HAS_IDS: constexpr, HAS_GOOD: constexpr, BLOCK: constexpr
) -> tensor:
    """Return a program's places in the gradient, the places in the parameter, and a mask of places that exist."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if HAS_GOOD:
        size *= tl.load(good)
    mask, place = at < size, at
    if HAS_IDS:
        place = tl.load(ids + at // width, mask, 0) * width + at % width
    return at, place, mask


@triton.jit
def _adagrad(
    weight: tensor,
    accumulator: tensor,
    grad: tensor,
    ids: tensor,
    good: tensor,
    width: tensor,
    lr: tensor,
    size: tensor,
    HAS_IDS: constexpr,
    HAS_GOOD: constexpr,
    BLOCK: constexpr,
) -> None:
    at, place, mask = _places(ids, good, width, size, HAS_IDS, HAS_GOOD, BLOCK)
    g = tl.load(grad + at, mask, 0.0)
    total = tl.load(accumulator + place, mask, 1.0) + g * g
    tl.store(accumulator + place, total, mask)
    tl.store(weight + place, tl.load(weight + place, mask, 0.0) - lr * g / tl.sqrt(total), mask)


@triton.jit
def _adam(
    weight: tensor,
    mean: tensor,
    square: tensor,
    grad: tensor,
    ids: tensor,
    good: tensor,
    width: tensor,
    steps: tensor,
    lr: tensor,
    beta2: tensor,
    rest1: tensor,
    rest2: tensor,
    log1: tensor,
    log2: tensor,
    eps: tensor,
    size: tensor,
    HAS_IDS: constexpr,
    HAS_GOOD: constexpr,
    BLOCK: constexpr,
) -> None:
    at, place, mask = _places(ids, good, width, size, HAS_IDS, HAS_GOOD, BLOCK)
    # 1 - beta ** number loses too much in float32 while number is small.
    number = tl.maximum(tl.load(steps), 1.0).to(tl.float64)
    scale = (lr / (1.0 - tl.exp(number * log1))).to(tl.float32)
    correction = tl.sqrt(1.0 - tl.exp(number * log2)).to(tl.float32)
    g = tl.load(grad + at, mask, 0.0)
    m, s = tl.load(mean + place, mask, 0.0), tl.load(square + place, mask, 1.0)
    m += rest1 * (g - m)
    s = beta2 * s + rest2 * g * g
    tl.store(mean + place, m, mask)
    tl.store(square + place, s, mask)
    tl.store(weight + place, tl.load(weight + place, mask, 0.0) - scale * m / (tl.sqrt(s) / correction + eps), mask)
