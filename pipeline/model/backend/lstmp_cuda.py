"""The recurrence of an LSTMP layer on a GPU: products by cuBLAS, all that lies between them by triton_kernels.py.

Numbers are those of lstmp.py. A window's steps run on buffers; where these are kept from window to window, as training
does, the steps are recorded once, each way, and then replayed as CUDA graphs: one launch in the place of hundreds.
"""

import math
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.model.backend import device as gpu


class Layer(Protocol):
    """What buffers need to know of an LSTMP layer."""

    weight_recurrent: nn.Parameter
    weight_proj: nn.Parameter
    bias: nn.Parameter
    hidden_dim: int
    proj_dim: int
    cell_clip: float
    proj_clip: float


class Buffers:
    """What a window's steps read and write; in the compute dtype, but c, dc and dy."""

    def __init__(self, layer: Layer, steps: int, lanes: int, dtype: torch.dtype) -> None:
        self.like = layer.weight_proj.detach()
        self.steps, self.lanes, self.hidden, self.width = steps, lanes, layer.hidden_dim, layer.proj_dim
        self.dtype, self.cell_clip = dtype, layer.cell_clip
        self.proj_clip = float(torch.tensor(layer.proj_clip).to(dtype))  # the bound that values in this dtype stop at
        self.gates = self._empty(steps, lanes, 4 * self.hidden)
        self.h, self.m = self._empty(steps + 1, lanes, self.width), self._empty(steps, lanes, self.hidden)
        self.c = self._empty(steps + 1, lanes, self.hidden, dtype=torch.float32)
        self.recurrent = self._empty(*layer.weight_recurrent.shape[1:])
        self.proj = self._empty(*layer.weight_proj.shape[1:])
        self.bias = self._empty(4 * self.hidden, dtype=torch.float32)
        self.window = 0  # how many forward passes were made
        self.is_warm = False  # both ways have been run: all kernels are compiled
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
    def carried(self) -> Tensor:
        """(2, B, P): what a step gives to the gradient of the h before it; at the end, that of the first state."""
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
        """From gates (the input's part), h[:, 0] and c[:, 0] to all of gates, h, c and m."""
        self.window += 1
        if self.graphs is not None:
            self._replay(0, self._forward_steps, [self.gates, self.h, self.c], [self.m])
        else:
            self._forward_steps()

    def run_backward(self) -> None:
        """From dy, and dc of the last step, to dgates, dh, carried, and dc of the first state."""
        if self.graphs is not None:
            self._replay(1, self._backward_steps, [self.dc], [self.dgates, self.dh, self.carried])
        else:
            self._backward_steps()
            self.is_warm = True

    def _replay(self, way: int, steps: Callable[[], None], changed: list[Tensor], made: list[Tensor]) -> None:
        """Each graph's first replay is held against the steps themselves; one that differs is never used again.

        changed: what the steps read and write; made: what they only write.
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
        from pipeline.model.backend import triton_kernels as kernels

        for t in range(self.steps):
            gates, c, m, h = self.gates[:, t], self.c[:, t + 1], self.m[:, t], self.h[:, t + 1]
            gates.baddbmm_(self.h[:, t], self.recurrent)
            kernels.cell_forward(gates, self.bias, self.c[:, t], c, m, self.cell_clip)
            torch.bmm(m, self.proj, out=h)
            if self.proj_clip != math.inf:
                h.clamp_(-self.proj_clip, self.proj_clip)

    def _backward_steps(self) -> None:
        from pipeline.model.backend import triton_kernels as kernels

        recurrent_t, proj_t = self.recurrent.transpose(1, 2), self.proj.transpose(1, 2)
        for t in reversed(range(self.steps)):
            dh, dgates, carried = self.dh[:, t], self.dgates[:, t], self.carried if t + 1 < self.steps else None
            kernels.clip_backward(dh, self.dy[:, t], carried, self.h[:, t + 1], self.proj_clip)
            torch.bmm(dh, proj_t, out=self.dm)
            kernels.cell_backward(
                dgates, self.dm, self.dc, self.gates[:, t], self.bias, self.c[:, t], self.c[:, t + 1], self.cell_clip
            )
            torch.bmm(dgates, recurrent_t, out=self.carried)

    def record(self) -> None:
        """Both ways are graphs from now on. Recording runs nothing; it fails where something is not capturable."""
        with torch.autocast(self.like.device.type, enabled=False):
            self.graphs = _recorded(self._forward_steps), _recorded(self._backward_steps)


def _agree(a: Tensor, b: Tensor) -> bool:
    """To the rounding of bfloat16; what is not finite stands in the same places."""
    a, b = a.float(), b.float()
    wrong = (a.nan_to_num() - b.nan_to_num()).norm()
    return bool((a.isfinite() == b.isfinite()).all() and wrong <= 0.02 * b.nan_to_num().norm())


def _recorded(steps: Callable[[], None]) -> torch.cuda.CUDAGraph:
    graph = torch.cuda.CUDAGraph()
    # Of this thread only: the loader's pins memory meanwhile, which would spoil a recording of all threads.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        steps()
    return graph


class KeptBuffers:
    """A layer's buffers from one window to the next, of one shape at a time; copies and pickles of it hold none."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._buffers: Buffers | None = None
        self._may_record = True

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptBuffers, ()

    def of(self, layer: Layer, steps: int, lanes: int, dtype: torch.dtype) -> Buffers:
        records = gpu.records_graphs(layer.bias)
        key = (steps, lanes, dtype, layer.bias.device, records)
        if self._buffers is None or key != self._key:
            self._buffers, self._key = None, ()  # its memory is free before more is taken
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


class Recurrence(torch.autograd.Function):
    """As lstmp's, on buffers; h and the input's gradient leave it in float32. bias: with the forget offset."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, weight_input: Tensor, weight_recurrent: Tensor, bias: Tensor,
        weight_proj: Tensor, buffers: Buffers,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
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
        dh0 = b.carried.float() if ctx.needs_input_grad[1] else None
        return dx, dh0, b.dc.clone(), *(w.float() for w in weights), None
