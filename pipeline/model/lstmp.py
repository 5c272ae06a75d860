"""One clipped, projected LSTM layer for both directions at once, with a hand-written backward.

Numerics are those of TF's LSTMCell as bilm-tf uses it (training.py:365-398): gates in the order i, j, f, o; 1.0 added
to the forget gate at run time and not stored; c clipped before the output gate uses it, h clipped after projection.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.model.backend.device import uses_kernels
from pipeline.model.backend.lstmp_cuda import Buffers, CudaRecurrence, KeptBuffers
from pipeline.model.backend.matmul import (
    add_packed_matmul_,
    batched_matmul,
    compute_dtype,
    matmul,
    packed,
    packed_matmul,
)

_sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward = torch.ops.aten.tanh_backward.grad_input
_clip_backward = torch.ops.aten.hardtanh_backward.grad_input  # 0 where a value is at a bound or beyond


class LSTMPState(NamedTuple):
    """State of a layer between windows: h (2, B, P), after clipping and before the residual; c (2, B, H)."""

    h: Tensor
    c: Tensor

    def detach(self) -> "LSTMPState":
        return LSTMPState(self.h.detach(), self.c.detach())


class LSTMP(nn.Module):
    """A layer of both directions. Weights have TF's layout, (direction, in, out)."""

    def __init__(
        self, input_dim: int, hidden_dim: int, proj_dim: int, cell_clip: float | None, proj_clip: float | None
    ) -> None:
        super().__init__()
        self.hidden_dim, self.proj_dim = hidden_dim, proj_dim
        self.cell_clip, self.proj_clip = cell_clip or math.inf, proj_clip or math.inf
        self.weight_input = nn.Parameter(torch.empty(2, input_dim, 4 * hidden_dim))
        self.weight_recurrent = nn.Parameter(torch.empty(2, proj_dim, 4 * hidden_dim))
        self.bias = nn.Parameter(torch.zeros(2, 4 * hidden_dim))
        self.weight_proj = nn.Parameter(torch.empty(2, hidden_dim, proj_dim))
        self.one_window_at_a_time = False  # True: the caller runs a window's backward before the next one's forward
        self._kept = KeptBuffers()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise with Glorot uniform over TF's joint [input; recurrent] kernel and over the projection; bias 0."""
        input_dim = self.weight_input.shape[1]
        kernel_bound = math.sqrt(6 / (input_dim + self.proj_dim + 4 * self.hidden_dim))
        proj_bound = math.sqrt(6 / (self.hidden_dim + self.proj_dim))
        nn.init.uniform_(self.weight_input, -kernel_bound, kernel_bound)
        nn.init.uniform_(self.weight_recurrent, -kernel_bound, kernel_bound)
        nn.init.uniform_(self.weight_proj, -proj_bound, proj_bound)
        nn.init.zeros_(self.bias)

    def initial_state(self, num_lanes: int) -> LSTMPState:
        h = self.weight_proj.new_zeros(2, num_lanes, self.proj_dim)
        return LSTMPState(h, self.weight_proj.new_zeros(2, num_lanes, self.hidden_dim))

    def forward(self, x_dtbi: Tensor, state: LSTMPState) -> tuple[Tensor, LSTMPState]:
        """Run both directions over one window.

        x_dtbi (2, T, B, D): direction, time step, lane, value; each direction in its own reading order.
        Returns y (2, T, B, P) and the next state. Gradients flow to x, the weights and the given state.
        """
        if uses_kernels(state.c):
            size = (x_dtbi.shape[1], x_dtbi.shape[2], compute_dtype(x_dtbi))
            is_kept = self.one_window_at_a_time and torch.is_grad_enabled()
            buffers = self._kept.of(self, *size) if is_kept else Buffers(self, *size)
            weights = self.weight_input, self.weight_recurrent, run_bias(self.bias, torch.float32), self.weight_proj
            y, c = CudaRecurrence.apply(x_dtbi, *state, *weights, buffers)
        else:
            clips = self.cell_clip, self.proj_clip
            weights = self.weight_input, self.weight_recurrent, self.bias, self.weight_proj
            y, c = _Recurrence.apply(x_dtbi, *state, *weights, *clips)
        return y, LSTMPState(y[:, -1].contiguous(), c)


class _Recurrence(torch.autograd.Function):
    """The input's part of the gates is one GEMM for all T steps; in backward each weight gradient is one over T * B.

    GEMMs run in the autocast dtype; gates, cell and state keep the dtype of the state (float32 in training).
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        h0: Tensor,
        c0: Tensor,
        weight_input: Tensor,
        weight_recurrent: Tensor,
        bias: Tensor,
        weight_proj: Tensor,
        cell_clip: float,
        proj_clip: float,
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(x)
        steps, lanes, hidden = x.shape[1], x.shape[2], c0.shape[2]
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(dtype)
            recurrent, proj = packed(weight_recurrent.to(dtype)), packed(weight_proj.to(dtype))
            gates = input_gates(x, weight_input.to(dtype), bias, c0.dtype)
            h = h0.new_empty(2, steps + 1, lanes, h0.shape[2])
            c = c0.new_empty(2, steps + 1, lanes, hidden)
            tanh_c, m = c0.new_empty(2, steps, lanes, hidden), c0.new_empty(2, steps, lanes, hidden)
            h[:, 0], c[:, 0] = h0, c0
            gates_t, h_t, c_t, tanh_t, m_t = (values.unbind(1) for values in (gates, h, c, tanh_c, m))
            for t in range(steps):
                add_packed_matmul_(gates_t[t], h_t[t].to(dtype), recurrent)
                cell_forward(gates_t[t], c_t[t], c_t[t + 1], tanh_t[t], m_t[t], cell_clip)
                h_t[t + 1].copy_(packed_matmul(m_t[t].to(dtype), proj)).clamp_(-proj_clip, proj_clip)
        ctx.save_for_backward(x, h, c, gates, tanh_c, m, weight_input, weight_recurrent, weight_proj)
        ctx.clips, ctx.dtype = (cell_clip, proj_clip), dtype
        return h[:, 1:].contiguous(), c[:, -1].contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, h, c, gates, tanh_c, m, weight_input, weight_recurrent, weight_proj = ctx.saved_tensors
        cell_clip, proj_clip = ctx.clips
        dtype, steps = ctx.dtype, x.shape[1]
        dh_all = grads[0].to(h.dtype).clone(memory_format=torch.contiguous_format)
        dgates = torch.empty_like(gates, dtype=dtype)
        dgates_wide = torch.empty_like(gates[:, 0])  # used if the autocast dtype is narrower than the state's
        recurrent_t, proj_t = (packed(w.to(dtype).transpose(1, 2)) for w in (weight_recurrent, weight_proj))
        dc = grads[1].to(c.dtype).clone()
        dm = torch.empty_like(dc)
        dh_t, dgates_t, gates_t = dh_all.unbind(1), dgates.unbind(1), gates.unbind(1)
        h_t, c_t, tanh_t = h.unbind(1), c.unbind(1), tanh_c.unbind(1)
        for t in reversed(range(steps)):
            dh = dh_t[t]
            if proj_clip != math.inf:
                _clip_backward(dh, h_t[t + 1], -proj_clip, proj_clip, grad_input=dh)
            dm.copy_(packed_matmul(dh.to(dtype), proj_t))
            dstep = dgates_t[t] if dtype == gates.dtype else dgates_wide
            _cell_backward(dstep, dm, dc, gates_t[t], c_t[t], c_t[t + 1], tanh_t[t], cell_clip)
            if dstep is dgates_wide:
                dgates_t[t].copy_(dgates_wide)
            if t:
                add_packed_matmul_(dh_t[t - 1], dgates_t[t], recurrent_t)
        dh0 = packed_matmul(dgates_t[0], recurrent_t).to(h.dtype) if ctx.needs_input_grad[1] else None
        dg = dgates.flatten(1, 2)
        weights = (
            batched_matmul(x.flatten(1, 2).transpose(1, 2), dg),
            batched_matmul(h[:, :-1].flatten(1, 2).to(dtype).transpose(1, 2), dg),
            dgates.sum((1, 2), dtype=gates.dtype),
            batched_matmul(m.flatten(1, 2).to(dtype).transpose(1, 2), dh_all.flatten(1, 2).to(dtype)),
        )
        dx = batched_matmul(dg, weight_input.to(dtype).transpose(1, 2)).view_as(x)
        return dx, dh0, dc, *(w.to(weight_input.dtype) for w in weights), None, None


def input_gates(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (2, T, B, 4H): the input's part of the gates of all steps, bias and forget offset included."""
    gates = torch.empty(2, x.shape[1] * x.shape[2], weight.shape[2], dtype=dtype, device=x.device)
    for d, added in enumerate(run_bias(bias, dtype)):
        torch.add(matmul(x[d].flatten(0, 1), weight[d]), added, out=gates[d])
    return gates.view(*x.shape[:3], -1)


def run_bias(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Return (2, 4H): the bias with 1.0 added to the forget gate, which TF adds at run time and does not store."""
    added = bias.to(dtype).clone()
    hidden = bias.shape[1] // 4
    added[:, 2 * hidden : 3 * hidden] += 1.0
    return added


def cell_forward(gates: Tensor, c_prev: Tensor, c: Tensor, tanh_c: Tensor, m: Tensor, cell_clip: float) -> None:
    """Turn gates (2, B, 4H) into their activations in place; fill c, tanh_c and m = o * tanh(c)."""
    hidden = c.shape[-1]
    i, j, f, o = gates.split(hidden, dim=-1)
    i.sigmoid_()
    j.tanh_()
    gates[..., 2 * hidden :].sigmoid_()
    torch.mul(f, c_prev, out=c)
    c.addcmul_(i, j)
    if cell_clip != math.inf:
        c.clamp_(-cell_clip, cell_clip)
    torch.tanh(c, out=tanh_c)
    torch.mul(o, tanh_c, out=m)


def _cell_backward(
    dgates: Tensor, dm: Tensor, dc: Tensor, gates: Tensor, c_prev: Tensor, c: Tensor, tanh_c: Tensor, cell_clip: float
) -> None:
    """Fill dgates (2, B, 4H); turn dc from the gradient of this step's c into that of the previous step's."""
    hidden = c.shape[-1]
    i, j, f, o = gates.split(hidden, dim=-1)
    di, dj, df, do = dgates.split(hidden, dim=-1)
    _sigmoid_backward(dm * tanh_c, o, grad_input=do)
    dc.add_(_tanh_backward(dm.mul_(o), tanh_c, grad_input=dm))
    if cell_clip != math.inf:
        _clip_backward(dc, c, -cell_clip, cell_clip, grad_input=dc)
    _sigmoid_backward(dc * j, i, grad_input=di)
    _tanh_backward(dc * i, j, grad_input=dj)
    _sigmoid_backward(dc * c_prev, f, grad_input=df)
    dc.mul_(f)
