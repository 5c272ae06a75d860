"""The pointwise work of the GPU path, in Triton: all work between two matrix products is one launch, in one pass.

Matrix products and kept activations are in the compute dtype (bf16 or float32); cell state, statistics and sums are
float32. Triton comes with torch's CUDA builds. With TRITON_INTERPRET=1 set before the import, the same code runs on CPU
tensors. It is slow then, and rounds to bf16 towards zero, while a GPU rounds to nearest.
"""

import os

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language import constexpr, tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_BLOCK = 64 if INTERPRETED else 1024  # values of a row per program
FLAT_BLOCK = 1 << 17 if INTERPRETED else 1024  # values of a flat tensor per program


def cell_forward(gates: Tensor, bias: Tensor, c_prev: Tensor, c: Tensor, m: Tensor, clip: float) -> None:
    """Fill c and m (2, B, H): the clipped cell, and o * tanh(c) in the compute dtype.

    gates (2, B, 4H): results of the matrix products, without bias (2, 4H) float32. In all tensors the lanes of a
    direction are contiguous; directions need not be.
    """
    _cell_forward[_grid(c)](
        gates, bias, c_prev, c, m, gates.stride(0), c.stride(0), m.stride(0), clip, c.shape[2], BLOCK=_BLOCK
    )


def cell_backward(
    dgates: Tensor, dm: Tensor, dc: Tensor, gates: Tensor, bias: Tensor, c_prev: Tensor, c: Tensor, clip: float
) -> None:
    """Fill dgates (2, B, 4H); turn dc (2, B, H) from the gradient of this step's c into that of the previous step's.

    Activations are computed again from the gates, so that they are not rounded to the compute dtype.
    """
    _cell_backward[_grid(c)](
        dgates,
        dm,
        dc,
        gates,
        bias,
        c_prev,
        c,
        gates.stride(0),
        dc.stride(0),
        c.stride(0),
        clip,
        c.shape[2],
        BLOCK=_BLOCK,
    )


def clip_backward(dh: Tensor, dy: Tensor, dh_recurrent: Tensor | None, h: Tensor, clip: float) -> None:
    """Fill dh (2, B, P): dy plus dh_recurrent, the gradient from the next step; 0 where the projection was clipped."""
    _clip_backward[_grid(h)](
        dh,
        dy,
        dy if dh_recurrent is None else dh_recurrent,
        h,
        dy.stride(0),
        h.stride(0),
        clip,
        h.shape[1],
        h.shape[2],
        HAS_RECURRENT=dh_recurrent is not None,
        BLOCK=_BLOCK,
    )


def dropout(x: Tensor, threshold: int, scale: float, key: int, first_lane: int) -> Tensor:
    """Return x (2, T, B, P), contiguous, times scale where a value is kept, 0 elsewhere: bitwise as dropout.py does."""
    y = torch.empty_like(x)
    _dropout[flat_grid(x)](
        x,
        y,
        threshold,
        scale,
        key,
        first_lane,
        x.shape[0] * x.shape[1],
        x.shape[2],
        x.shape[3],
        x.numel(),
        BLOCK=FLAT_BLOCK,
    )
    return y


def flat_grid(values: Tensor) -> tuple[int]:
    """Return the programs for a flat tensor."""
    return (triton.cdiv(values.numel(), FLAT_BLOCK),)


def _grid(values: Tensor) -> tuple[int, int, int]:
    """Return the programs for values (2, B, N): blocks of N, lanes, directions."""
    return triton.cdiv(values.shape[2], _BLOCK), values.shape[1], values.shape[0]


@triton.jit
def _tanh(x: tensor) -> tensor:
    return 2.0 * tl.sigmoid(2.0 * x) - 1.0


@triton.jit
def _activations(gates: tensor, bias: tensor, mask: tensor, hidden: tensor) -> tensor:
    """Return i, j, f, o of some units. gates, bias: pointers to the first gate of each unit."""
    i = tl.load(gates, mask, 0.0).to(tl.float32) + tl.load(bias, mask, 0.0)
    j = tl.load(gates + hidden, mask, 0.0).to(tl.float32) + tl.load(bias + hidden, mask, 0.0)
    f = tl.load(gates + 2 * hidden, mask, 0.0).to(tl.float32) + tl.load(bias + 2 * hidden, mask, 0.0)
    o = tl.load(gates + 3 * hidden, mask, 0.0).to(tl.float32) + tl.load(bias + 3 * hidden, mask, 0.0)
    return tl.sigmoid(i), _tanh(j), tl.sigmoid(f), tl.sigmoid(o)


@triton.jit
def _cell_forward(
    gates: tensor,
    bias: tensor,
    c_prev: tensor,
    c: tensor,
    m: tensor,
    gates_stride: tensor,
    c_stride: tensor,
    m_stride: tensor,
    clip: tensor,
    hidden: tensor,
    BLOCK: constexpr,
) -> None:
    unit, lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    direction, mask = tl.program_id(2).to(tl.int64), unit < hidden
    gates += direction * gates_stride + lane * 4 * hidden + unit
    i, j, f, o = _activations(gates, bias + direction * 4 * hidden + unit, mask, hidden)
    at = direction * c_stride + lane * hidden + unit
    value = f * tl.load(c_prev + at, mask, 0.0) + i * j
    # Not minimum and maximum, which would hide NaN.
    value = tl.where(value > clip, clip, tl.where(value < -clip, -clip, value))
    tl.store(c + at, value, mask)
    m += direction * m_stride + lane * hidden + unit
    tl.store(m, (o * _tanh(value)).to(m.dtype.element_ty), mask)


@triton.jit
def _cell_backward(
    dgates: tensor,
    dm: tensor,
    dc: tensor,
    gates: tensor,
    bias: tensor,
    c_prev: tensor,
    c: tensor,
    gates_stride: tensor,
    dc_stride: tensor,
    c_stride: tensor,
    clip: tensor,
    hidden: tensor,
    BLOCK: constexpr,
) -> None:
    unit, lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    direction, mask = tl.program_id(2).to(tl.int64), unit < hidden
    of_gates = direction * gates_stride + lane * 4 * hidden + unit
    i, j, f, o = _activations(gates + of_gates, bias + direction * 4 * hidden + unit, mask, hidden)
    of_c, of_dc = direction * c_stride + lane * hidden + unit, direction * dc_stride + lane * hidden + unit
    value = tl.load(c + of_c, mask, 0.0)
    tanh_c = _tanh(value)
    dm_value = tl.load(dm + of_dc, mask, 0.0).to(tl.float32)
    dc_value = tl.load(dc + of_dc, mask, 0.0) + dm_value * o * (1.0 - tanh_c * tanh_c)
    # A product with a mask, as elsewhere, so that NaN stays NaN.
    dc_value *= tl.where((value < clip) & (value > -clip), 1.0, 0.0)
    df = dc_value * tl.load(c_prev + of_c, mask, 0.0) * f * (1.0 - f)
    dgates += of_gates
    tl.store(dgates, (dc_value * j * i * (1.0 - i)).to(dgates.dtype.element_ty), mask)
    tl.store(dgates + hidden, (dc_value * i * (1.0 - j * j)).to(dgates.dtype.element_ty), mask)
    tl.store(dgates + 2 * hidden, df.to(dgates.dtype.element_ty), mask)
    tl.store(dgates + 3 * hidden, (dm_value * tanh_c * o * (1.0 - o)).to(dgates.dtype.element_ty), mask)
    tl.store(dc + of_dc, dc_value * f, mask)


@triton.jit
def _clip_backward(
    dh: tensor,
    dy: tensor,
    dh_recurrent: tensor,
    h: tensor,
    dy_stride: tensor,
    h_stride: tensor,
    clip: tensor,
    lanes: tensor,
    width: tensor,
    HAS_RECURRENT: constexpr,
    BLOCK: constexpr,
) -> None:
    column, lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK), tl.program_id(1)
    direction, mask = tl.program_id(2).to(tl.int64), column < width
    of_dy = direction * dy_stride + lane * width + column
    total = tl.load(dy + of_dy, mask, 0.0)
    if HAS_RECURRENT:
        total += tl.load(dh_recurrent + (direction * lanes + lane) * width + column, mask, 0.0).to(tl.float32)
    value = tl.load(h + direction * h_stride + lane * width + column, mask, 0.0).to(tl.float32)
    total *= tl.where((value < clip) & (value > -clip), 1.0, 0.0)
    tl.store(dh + of_dy, total.to(dh.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["key", "first_lane"])  # one kernel for all values: these change from step to step
def _dropout(
    x: tensor,
    y: tensor,
    threshold: tensor,
    scale: tensor,
    key: tensor,
    first_lane: tensor,
    places: tensor,
    lanes: tensor,
    width: tensor,
    size: tensor,
    BLOCK: constexpr,
) -> None:
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    row, column = at // width, at % width
    counter = ((first_lane + row % lanes) * places + row // lanes) * ((width + 1) // 2) + column // 2
    bits = counter.to(tl.uint32) ^ key.to(tl.uint32)
    bits ^= bits >> 16
    bits *= 0x7FEB352D
    bits ^= bits >> 15
    bits *= 0x846CA68B
    bits ^= bits >> 16
    half = tl.where(column % 2 == 0, bits, bits >> 16).to(tl.int16)  # the first of two neighbours gets the low bits
    factor = tl.where(half >= threshold, scale, 0.0)
    tl.store(y + at, (tl.load(x + at, mask, 0.0) * factor).to(y.dtype.element_ty), mask)
