"""Matrix products: by oneDNN on a CPU in float32 where it is faster, otherwise by torch's own functions.

torch computes float32 products by MKL, which does not use AVX-512 on AMD processors. There oneDNN is at least twice as
fast at the shapes of this model (benchmarks/rates.py measures both), except for small matrices that would be packed.
Without AVX-512 oneDNN is faster only for few rows and a packed matrix that is larger than a cache. Under autocast to
bfloat16 torch itself uses oneDNN; packed matrices are faster still, if the processor has bfloat16 instructions.

The op is the one that torch's compiler emits; without it torch.mm is used. The choice depends on processor and shapes
only, so the same machine always computes the same bits.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Matrices = Tensor | list[Tensor]  # (D, K, N), or D of (K, N), packed

_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_AVX512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
# Whether this processor has bfloat16 instructions; without them bfloat16 products are slower than float32 products.
# torch has no public question for it.
HAS_BF16 = any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
_LEAST_PACKED = 1 << 18 if _AVX512 else 1 << 20  # elements: 1 and 4 MiB. MKL uses a thread for each direction


def compute_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of matrix products of x: autocast's if it is on, otherwise that of x."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def matmul(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return left (M, K) @ right (K, N) + bias (N,). Both may be views; right may be a matrix from `packed`."""
    if right.is_mkldnn:
        return _onednn(left, right, bias)
    if suits_onednn(left, right):
        return _onednn(left, right.t(), bias)
    return torch.mm(left, right) if bias is None else torch.addmm(bias, left, right)


def packed(right: Tensor) -> Matrices:
    """Return right (D, K, N) for many products: packed for oneDNN if that is faster, otherwise contiguous.

    MKL is 3 to 4 times slower on views.
    """
    if right.dtype == torch.bfloat16:
        is_packed = _ONEDNN and HAS_BF16 and right.device.type == "cpu"
    else:
        is_packed = _is_onednns(right) and right.shape[-2] * right.shape[-1] >= _LEAST_PACKED
    if not is_packed:
        return right.contiguous()
    # The packing behind torch.compile; torch.mkldnn's public tensors are packed for nn.Linear modules only.
    return [torch.ops.mkldnn._reorder_linear_weight(r.detach().t(), None) for r in right]


def batched_matmul(left: Tensor, right: Tensor) -> Tensor:
    """Return left (D, M, K) @ right (D, K, N)."""
    if not suits_onednn(left, right):
        return torch.bmm(left, right)
    return torch.stack([matmul(a, b) for a, b in zip(left, right, strict=True)])


def packed_matmul(left: Tensor, right: Matrices) -> Tensor:
    """Return left (D, M, K) @ right (D, K, N), right from `packed`."""
    if isinstance(right, Tensor):
        return torch.bmm(left, right)
    return torch.stack([matmul(a, b) for a, b in zip(left, right, strict=True)])


def add_packed_matmul_(total: Tensor, left: Tensor, right: Matrices) -> None:
    """Add left (D, M, K) @ right (D, K, N), right from `packed`, to total (D, M, N)."""
    if isinstance(right, Tensor):
        total.add_(torch.bmm(left, right))  # not baddbmm: only into its own buffer MKL uses a thread a direction
    else:
        for out, a, b in zip(total, left, right, strict=True):
            out.add_(matmul(a, b))


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return torch.nn.functional.linear(x, weight, bias): x (M, K), weight (N, K), bias (N,)."""
    if torch.is_autocast_enabled(x.device.type) or not suits_onednn(x, weight):
        return torch.nn.functional.linear(x, weight, bias)
    return _Linear.apply(x, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return matmul(x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dx = matmul(grads[0], weight) if ctx.needs_input_grad[0] else None
        return dx, matmul(grads[0].t(), x), grads[0].sum(0)


def suits_onednn(left: Tensor, right: Tensor) -> bool:
    """Return whether oneDNN computes the product of these matrices, which are not packed."""
    return _AVX512 and _is_onednns(left) and _is_onednns(right) and left.numel() > 0 and right.numel() > 0


def _is_onednns(matrix: Tensor) -> bool:
    return _ONEDNN and matrix.device.type == "cpu" and matrix.dtype == torch.float32


def _onednn(left: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return torch.ops.mkldnn._linear_pointwise(left, weight, bias, "none", [], "")
