"""Matrix products. On a CPU in float32 they are oneDNN's where that is faster, everywhere else torch's own.

torch gives float32 products to MKL, which on AMD processors leaves AVX-512 unused: at the shapes of this model oneDNN
was about twice as fast there and more (benchmarks/rates.py measures both), in float32 all the same, but for small
matrices that would be packed. Without AVX-512 it is faster only where few rows meet a packed matrix beyond a cache.
Under autocast to bfloat16 torch itself asks oneDNN; packed matrices are faster still, if the processor has
instructions for that type. The op is the one that torch's own compiler emits; where it is missing, torch.mm does.
Which is used depends on the processor and the shapes alone, so that the same machine computes the same bits.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Matrices = Tensor | list[Tensor]  # (D, K, N), or D of (K, N), packed

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_AVX512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
# Whether this processor has instructions for bfloat16; without them its products are slower than float32's.
HAS_BF16 = any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
_LEAST_PACKED = 1 << 18 if _AVX512 else 1 << 20  # elements: 1 and 4 MiB; MKL gives each direction a thread


def compute_dtype(x: Tensor) -> torch.dtype:
    """Of products of x: autocast's where that is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left (M, K) @ right (K, N) + bias (N,); both may be views, and right may be one of `packed`."""
    if right.is_mkldnn:
        return _onednn(left, right, bias)
    if suits_onednn(left, right):
        return _onednn(left, right.t(), bias)
    return torch.mm(left, right) if bias is None else torch.addmm(bias, left, right)


def packed(right: Tensor) -> Matrices:
    """Each of right (D, K, N), for many products: in the blocks that oneDNN reads, or as it is."""
    if not _gets_packed(right):
        return right
    return [torch.ops.mkldnn._reorder_linear_weight(r.detach().t(), None) for r in right]


def products(left: Tensor, right: Tensor) -> Tensor:
    """left (D, M, K) @ right (D, K, N)."""
    if not suits_onednn(left, right):
        return torch.bmm(left, right)
    return torch.stack([product(a, b) for a, b in zip(left, right, strict=True)])


def biased_products(left: Tensor, right: Tensor, bias: Tensor) -> Tensor:
    """left (D, M, K) @ right (D, K, N) + bias (D, 1, N), in the dtype of bias."""
    out = torch.empty(*left.shape[:2], right.shape[2], dtype=bias.dtype, device=bias.device)
    if not suits_onednn(left, right):
        return torch.add(torch.bmm(left, right), bias, out=out)
    for d in range(len(out)):
        torch.add(product(left[d], right[d]), bias[d], out=out[d])
    return out


def add_products(total: Tensor, left: Tensor, right: Matrices) -> None:
    """total (D, M, N) += left (D, M, K) @ right (D, K, N), which may come from `packed`."""
    if isinstance(right, list):
        for d, matrix in enumerate(right):
            total[d].add_(product(left[d], matrix))
    elif total.device.type == "cpu" or total.dtype != left.dtype:
        # Into a place of its own: only there MKL gives each direction a thread.
        total.add_(torch.bmm(left, right))
    else:
        total.baddbmm_(left, right)


def products_into(out: Tensor, left: Tensor, right: Matrices) -> None:
    """out (D, M, N) = left (D, M, K) @ right (D, K, N), which may come from `packed`."""
    if isinstance(right, list):
        for d, matrix in enumerate(right):
            out[d].copy_(product(left[d], matrix))
    else:
        out.copy_(torch.bmm(left, right))


def transposed(right: Tensor) -> Tensor:
    """(D, K, N) -> (D, N, K): a copy where views are slow, as MKL's are by 3 to 4 times, unless `packed` reads it."""
    view = right.transpose(1, 2)
    return view if _gets_packed(view) else view.contiguous()


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As torch.nn.functional.linear: x (M, K), weight (N, K), bias (N,)."""
    if torch.is_autocast_enabled(x.device.type) or not suits_onednn(x, weight):
        return torch.nn.functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = product(grads[0], weight) if ctx.needs_input_grad[0] else None
        return dx, product(grads[0].t(), x), grads[0].sum(0)


def suits_onednn(left: Tensor, right: Tensor) -> bool:
    """Whether oneDNN is given a product of matrices that are not packed."""
    return _AVX512 and _in_float32(left) and right.dtype == torch.float32 and left.numel() > 0 and right.numel() > 0


def _gets_packed(right: Tensor) -> bool:
    if right.dtype == torch.bfloat16:
        return _ONEDNN and HAS_BF16 and right.device.type == "cpu"
    return _in_float32(right) and right.shape[-2] * right.shape[-1] >= _LEAST_PACKED


def _in_float32(matrix: Tensor) -> bool:
    return _ONEDNN and matrix.device.type == "cpu" and matrix.dtype == torch.float32


def _onednn(left: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return torch.ops.mkldnn._linear_pointwise(left, weight, bias, "none", [], "")
