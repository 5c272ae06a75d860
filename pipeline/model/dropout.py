"""Dropout whose mask is a pure function of (key, lane, position), so that there is no random state to save.

A lane drops the same values in a step on one process and on 64, and after any resume.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.model.backend.device import uses_kernels

_MASK32 = 0xFFFFFFFF


def mix32(*values: int) -> int:
    """Fold integers into one well-mixed signed 32-bit key (splitmix64 finaliser, Steele et al. 2014)."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state + (value & 0xFFFFFFFFFFFFFFFF) + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return ((state & _MASK32) ^ 0x80000000) - 0x80000000


def lane_dropout(x_dtbp: Tensor, rate: float, key: int, first_lane: int) -> Tensor:
    """Zero a share `rate` of the values and scale the rest by 1 / (1 - rate).

    x_dtbp (2, T, B, P): row b is lane first_lane + b of the global batch. key: 32 bits, different for each step
    and site. Each time step has its own mask, as in bilm-tf (training.py:389-391).
    """
    if rate == 0.0:
        return x_dtbp
    if uses_kernels(x_dtbp):
        return _Fused.apply(x_dtbp, rate, key, first_lane)
    keep = _keep_mask(x_dtbp, rate, key, first_lane)
    return x_dtbp * keep.to(x_dtbp.dtype).mul_(1.0 / (1.0 - rate))


class _Fused(torch.autograd.Function):
    """Compute the mask in forward and again in backward instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, key: int, first_lane: int) -> Tensor:
        ctx.mask = rate, key, first_lane
        return _fused(x, rate, key, first_lane)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _fused(grads[0], *ctx.mask), None, None, None


def _fused(x: Tensor, rate: float, key: int, first_lane: int) -> Tensor:
    import pipeline.model.backend.triton_kernels as kernels

    return kernels.dropout(x.contiguous(), _threshold(rate), 1.0 / (1.0 - rate), key, first_lane)


def _threshold(rate: float) -> int:
    """Return the least signed 16-bit hash for which a value is kept."""
    return min(round(rate * 65536), 65535) - 32768


def _keep_mask(x_dtbp: Tensor, rate: float, key: int, first_lane: int) -> Tensor:
    """Return bool (2, T, B, P), True where a value is kept. One 32-bit hash gives 16 bits to each of two neighbours."""
    directions, steps, lanes, width = x_dtbp.shape
    pairs = (width + 1) // 2
    device = x_dtbp.device
    lane = torch.arange(first_lane, first_lane + lanes, dtype=torch.int64, device=device)
    place = torch.arange(directions * steps, dtype=torch.int64, device=device).view(directions, steps, 1, 1)
    row = lane.view(1, 1, lanes, 1) * (directions * steps) + place
    bits = _wrap32(row * pairs).add(torch.arange(pairs, dtype=torch.int32, device=device))
    return _hash32_(bits.bitwise_xor_(key)).view(torch.int16)[..., :width] >= _threshold(rate)


def _wrap32(counter: Tensor) -> Tensor:
    return ((counter + 0x80000000) & _MASK32).sub_(0x80000000).to(torch.int32)


def _hash32_(bits: Tensor) -> Tensor:
    """Mix 32 bits in place by a bijection of multiplications and shifts (C. Wellons' lowbias32)."""
    # The masks make the shifts logical: torch shifts int32 arithmetically, so the xor would clear every sign bit.
    bits ^= (bits >> 16).bitwise_and_(0xFFFF)
    bits *= 0x7FEB352D
    bits ^= (bits >> 15).bitwise_and_(0x1FFFF)
    bits *= -2073254261  # 0x846CA68B as a signed 32-bit number
    bits ^= (bits >> 16).bitwise_and_(0xFFFF)
    return bits
