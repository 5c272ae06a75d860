"""The recurrence of an LSTMP layer on a GPU: matrix products by cuBLAS, all work between them by triton_kernels.py.

Numbers are those of lstmp.py. A window's steps run on buffers. Training keeps the buffers from window to window; then
the steps of forward and of backward are recorded once and replayed as CUDA graphs: one launch instead of hundreds.
"""

import math
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.model.backend.device import records_graphs


class Layer(Protocol):
    """The attributes of an LSTMP layer that buffers use."""

    weight_recurrent: nn.Parameter
    weight_proj: nn.Parameter
    bias: nn.Parameter
    hidden_dim: int
    proj_dim: int
    cell_clip: float
    proj_clip: float


class Buffers:
    """The tensors that a window's steps read and write, in the compute dtype except c, dc and dy (float32)."""

    def __init__(self, layer: Layer, steps: int, lanes: int, dtype: torch.dtype) -> None:
        self.like = layer.weight_proj.detach()
        self.steps, self.lanes, self.hidden, self.width = steps, lanes, layer.hidden_dim, layer.proj_dim
        self.dtype, self.cell_clip = dtype, layer.cell_clip
        self.proj_clip = float(torch.tensor(layer.proj_clip).to(dtype))  # rounded as values of this dtype are
        self.gates = self._empty(steps, lanes, 4 * self.hidden)
        self.h, self.m = self._empty(steps + 1, lanes, self.width), self._empty(steps, lanes, self.hidden)
        self.c = self._empty(steps + 1, lanes, self.hidden, dtype=torch.float32)
        self.recurrent = self._empty(*layer.weight_recurrent.shape[1:])
        self.proj = self._empty(*layer.weight_proj.shape[1:])
        self.bias = self._empty(4 * self.hidden, dtype=torch.float32)
        self.window = 0  # number of forward passes
        self.is_warm = False  # forward and backward have run, so all kernels are compiled
        self.graphs: tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph] | None = None
        self.are_graphs_checked = [False, False]
        self.may_record = True

    def _empty(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.empty(2, *shape, dtype=dtype or self.dtype, device=self.like.device)

    @cached_property
    def dy(self) -> Tensor:
        return self._empty(self.steps, self.lanes, self.width, dtype=torch.float32)

    @cached_property
    def dh(self) -> Tensor:
        return self._empty(self.steps, self.lanes, self.width)

    @cached_property
    def dh_recurrent(self) -> Tensor:
        """(2, B, P): gradient of the previous step's h from this step; after the last one, of the first state's h."""
        return self._empty(self.lanes, self.width)

    @cached_property
    def dgates(self) -> Tensor:
        return torch.empty_like(self.gates)

    @cached_property
    def dm(self) -> Tensor:
        return self._empty(self.lanes, self.hidden)

    @cached_property
    def dc(self) -> Tensor:
        return self._empty(self.lanes, self.hidden, dtype=torch.float32)

    def run_forward(self) -> None:
        """Compute gates, h, c and m of all steps from gates (the input's part), h[:, 0] and c[:, 0]."""
        self.window += 1
        if self.graphs is not None:
            self._replay(0, self._forward_steps, [self.gates, self.h, self.c], [self.m])
        else:
            self._forward_steps()

    def run_backward(self) -> None:
        """Compute dgates, dh, dh_recurrent and the first state's dc from dy and the last step's dc."""
        if self.graphs is not None:
            self._replay(1, self._backward_steps, [self.dc], [self.dgates, self.dh, self.dh_recurrent])
        else:
            self._backward_steps()
            self.is_warm = True

    def _replay(self, way: int, steps: Callable[[], None], changed: list[Tensor], made: list[Tensor]) -> None:
        """Replay a graph: way 0 forward, 1 backward. The first replay is compared with the steps run one by one.

        If they differ, graphs are not used again. changed: tensors that the steps read and write. made: tensors that
        they only write.
        """
        assert self.graphs is not None
        if self.are_graphs_checked[way]:
            self.graphs[way].replay()
            return
        before = [values.clone() for values in changed]
        self.graphs[way].replay()
        replayed = [values.clone() for values in (*changed, *made)]
        for values, old in zip(changed, before, strict=True):
            values.copy_(old)
        steps()
        self.are_graphs_checked[way] = True
        if not all(_agree(a, b) for a, b in zip(replayed, (*changed, *made), strict=True)):
            self.graphs, self.may_record = None, False
            warnings.warn(
                "a CUDA graph of the recurrence is wrong here: the steps run one by one, slower", stacklevel=2
            )

    def _forward_steps(self) -> None:
        import pipeline.model.backend.triton_kernels as kernels

        for t in range(self.steps):
            gates, c, m, h = self.gates[:, t], self.c[:, t + 1], self.m[:, t], self.h[:, t + 1]
            gates.baddbmm_(self.h[:, t], self.recurrent)
            kernels.cell_forward(gates, self.bias, self.c[:, t], c, m, self.cell_clip)
            torch.bmm(m, self.proj, out=h)
            if self.proj_clip != math.inf:
                h.clamp_(-self.proj_clip, self.proj_clip)

    def _backward_steps(self) -> None:
        import pipeline.model.backend.triton_kernels as kernels

        recurrent_t, proj_t = self.recurrent.transpose(1, 2), self.proj.transpose(1, 2)
        for t in reversed(range(self.steps)):
            dh, dgates = self.dh[:, t], self.dgates[:, t]
            dh_recurrent = self.dh_recurrent if t + 1 < self.steps else None
            kernels.clip_backward(dh, self.dy[:, t], dh_recurrent, self.h[:, t + 1], self.proj_clip)
            torch.bmm(dh, proj_t, out=self.dm)
            kernels.cell_backward(
                dgates, self.dm, self.dc, self.gates[:, t], self.bias, self.c[:, t], self.c[:, t + 1], self.cell_clip
            )
            torch.bmm(dgates, recurrent_t, out=self.dh_recurrent)

    def record(self) -> None:
        """Record forward and backward as graphs. Recording computes nothing, and fails if an op cannot be captured."""
        with torch.autocast(self.like.device.type, enabled=False):
            self.graphs = _recorded(self._forward_steps), _recorded(self._backward_steps)


def _agree(a: Tensor, b: Tensor) -> bool:
    """Return whether a and b are equal up to the rounding of bfloat16, with non-finite values at the same places."""
    a, b = a.float(), b.float()
    wrong = (a.nan_to_num() - b.nan_to_num()).norm()
    return bool((a.isfinite() == b.isfinite()).all() and wrong <= 0.02 * b.nan_to_num().norm())


def _recorded(steps: Callable[[], None]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    # Record this thread only: a thread of the loader may pin memory at the same time, which would fail the recording.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        steps()
    return graph


class KeptBuffers:
    """A layer's buffers, kept from window to window for one shape at a time. Copies and pickles are empty."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._buffers: Buffers | None = None
        self._may_record = True

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptBuffers, ()

    def of(self, layer: Layer, steps: int, lanes: int, dtype: torch.dtype) -> Buffers:
        records = records_graphs(layer.bias)
        key = (steps, lanes, dtype, layer.bias.device, records)
        if self._buffers is None or key != self._key:
            self._buffers, self._key = None, ()  # frees the old buffers before new ones are allocated
            self._buffers, self._key = Buffers(layer, steps, lanes, dtype), key
        if records and self._may_record and self._buffers.may_record and self._buffers.is_warm:
            self._record(self._buffers)
        return self._buffers

    def _record(self, buffers: Buffers) -> None:
        try:
            if buffers.graphs is None:
                buffers.record()
        except RuntimeError as error:
            self._may_record = False
            warnings.warn(f"the recurrence runs without CUDA graphs, step by step and slower: {error}", stacklevel=2)


class CudaRecurrence(torch.autograd.Function):
    """The recurrence of lstmp.py, on buffers. h and the input's gradient are float32. bias: with the forget offset."""

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
        buffers: Buffers,
    ) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            low = x.to(buffers.dtype)
            torch.bmm(low.flatten(1, 2), weight_input.to(buffers.dtype), out=buffers.gates.flatten(1, 2))
            buffers.recurrent.copy_(weight_recurrent)
            buffers.proj.copy_(weight_proj)
            buffers.bias.copy_(bias)
            buffers.h[:, 0], buffers.c[:, 0] = h0, c0
            buffers.run_forward()
        ctx.save_for_backward(low, weight_input)
        ctx.buffers, ctx.window, ctx.x_dtype = buffers, buffers.window, x.dtype
        return buffers.h[:, 1:].to(torch.float32, copy=True).contiguous(), buffers.c[:, -1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        low, weight_input = ctx.saved_tensors
        b: Buffers = ctx.buffers
        assert b.window == ctx.window, "a layer that keeps its buffers has one window under way at a time"
        b.dy.copy_(grads[0])
        b.dc.copy_(grads[1])
        b.run_backward()
        dgates = b.dgates.flatten(1, 2)
        weights = (
            torch.bmm(low.flatten(1, 2).transpose(1, 2), dgates),
            torch.bmm(b.h[:, :-1].flatten(1, 2).transpose(1, 2), dgates),
            dgates.sum(1, dtype=torch.float32),
            torch.bmm(b.m.flatten(1, 2).transpose(1, 2), b.dh.flatten(1, 2)),
        )
        dx = torch.bmm(dgates, weight_input.to(b.dtype).transpose(1, 2)).view_as(low).to(ctx.x_dtype)
        dh0 = b.dh_recurrent.float() if ctx.needs_input_grad[1] else None
        return dx, dh0, b.dc.clone(), *(w.float() for w in weights), None
