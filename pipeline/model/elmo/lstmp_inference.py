"""The LSTM layers without gradient: the numbers of `BiLM.run_layers`, in less time and memory.

A row is not computed past its end. The first layer computes a word's part of the gates once, even if the word occurs
many times. Gates are held for a bounded number of steps, whatever the window's length.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model.backend.matmul import Matrices, add_packed_matmul_, compute_dtype, packed, packed_matmul
from pipeline.model.bilm import BiLM, States
from pipeline.model.elmo.word_cache import ROW_MULTIPLE, version_of
from pipeline.model.lstmp import LSTMP, LSTMPState, cell_forward, run_bias

Gates = Callable[[slice, int], Tensor]
"""gates(steps, rows) returns (directions, steps, rows, 4 H): the input's part of the gates, bias included."""

_PLACES_AT_ONCE = 1024  # steps x rows whose gates are held at once
_WORD_GATES = 1 << 26  # upper bound for the gates of a window's words, held for all steps: 256 MiB


class _Weights(NamedTuple):
    """Weights of a layer, packed for many matrix products. bias (2, 4 H): forget offset included."""

    input: Matrices
    recurrent: Matrices
    proj: Matrices
    bias: Tensor
    dtype: torch.dtype

    def of(self, d: slice) -> "_Weights":
        return _Weights(self.input[d], self.recurrent[d], self.proj[d], self.bias[d], self.dtype)


class LSTMPInference:
    """Run the layers of a biLM. The weights are packed once for fast matrix products, and again when they change."""

    def __init__(self, bilm: BiLM) -> None:
        self._bilm = bilm
        self._weights: list[_Weights] = []
        self._weights_version: list[tuple[object, ...]] = []

    @torch.no_grad()
    def run_layers(
        self, words_up: Tensor, index_dtb: Tensor, steps: list[int], states: States
    ) -> tuple[list[Tensor], States]:
        """Return what `bilm.run_layers` returns for vectors words_up[index_dtb], with row b run for steps[b] steps.

        words_up (U, P). index_dtb (2, T, B). steps (B,) must fall. Values of a row after its last step are undefined;
        next states are those after the window's last step.
        """
        assert steps == sorted(steps, reverse=True)
        self._prepare(compute_dtype(words_up), states[0].c.dtype)
        rows, missing = len(steps), -len(steps) % ROW_MULTIPLE
        if missing:
            states = [LSTMPState(*(F.pad(part, (0, 0, 0, missing)) for part in state)) for state in states]
            index_dtb = F.pad(index_dtb, (0, missing))
        words_up = F.pad(words_up, (0, 0, 0, -len(words_up) % ROW_MULTIPLE))
        running = [sum(length > t for length in steps) for t in range(index_dtb.shape[1])]
        active = [count + -count % ROW_MULTIPLE for count in running]
        x = F.embedding(index_dtb, words_up)
        outputs, next_states = [x], []
        for depth, (layer, state) in enumerate(zip(self._bilm.layers, states, strict=True)):
            assert isinstance(layer, LSTMP)
            words = None if depth else (words_up, index_dtb)
            y, next_state = _run_layer(layer, self._weights[depth], x, words, active, state)
            x = y.add_(x) if depth and self._bilm.config.skip_connections else y
            outputs.append(x)
            next_states.append(LSTMPState(next_state.h[:, :rows], next_state.c[:, :rows]))
        return [output[:, :, :rows] for output in outputs], next_states

    def _prepare(self, dtype: torch.dtype, state_dtype: torch.dtype) -> None:
        version = [*version_of(self._bilm.layers), (dtype, state_dtype)]
        if version == self._weights_version:
            return
        self._weights = []
        for layer in self._bilm.layers:
            assert isinstance(layer, LSTMP)
            whole = (layer.weight_input, layer.weight_recurrent, layer.weight_proj)
            input, recurrent, proj = (packed(matrices.to(dtype)) for matrices in whole)
            self._weights.append(_Weights(input, recurrent, proj, run_bias(layer.bias, state_dtype), dtype))
        self._weights_version = version


def _run_layer(
    layer: LSTMP,
    weights: _Weights,
    x: Tensor,
    words: tuple[Tensor, Tensor] | None,
    active: list[int],
    state: LSTMPState,
) -> tuple[Tensor, LSTMPState]:
    """Run one layer on x. words: (vectors, index) if x is the first layer's input.

    On a CPU the directions run one after the other, so that the weights of one stay in the cache.
    """
    y, c = state.h.new_zeros(*x.shape[:3], layer.proj_dim), state.c.clone()
    directions = [slice(0, 1), slice(1, 2)] if x.device.type == "cpu" else [slice(0, 2)]
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        for d in directions:
            if words is not None and layer.bias[d].numel() * len(words[0]) <= _WORD_GATES:
                gates = _gates_of_words(weights.of(d), d, words[0].to(dtype), words[1])
            else:
                gates = _gates_of_places(weights.of(d), d, x, dtype)
            _run_steps(layer, weights.of(d), gates, active, y[d], LSTMPState(state.h[d], c[d]))
    last = y[:, -1].clone()  # the caller may add the input to y in place
    return y, LSTMPState(last, c)


def _input_product(x: Tensor, weights: _Weights) -> Tensor:
    """Return what `input_gates` returns, always by the same matrix product, so that rounding is the same."""
    gates = weights.bias.unsqueeze(1).repeat(1, x.shape[1] * x.shape[2], 1)
    add_packed_matmul_(gates, x.flatten(1, 2), weights.input)
    return gates.view(*x.shape[:3], -1)


def _gates_of_words(weights: _Weights, d: slice, words: Tensor, index: Tensor) -> Gates:
    table = _input_product(words.expand(len(weights.bias), 1, *words.shape), weights).squeeze(1)
    return lambda steps, rows: torch.stack(
        [F.embedding(i, of_word) for i, of_word in zip(index[d, steps, :rows], table, strict=True)]
    )


def _gates_of_places(weights: _Weights, d: slice, x: Tensor, dtype: torch.dtype) -> Gates:
    return lambda steps, rows: _input_product(x[d, steps, :rows].to(dtype), weights)


def _run_steps(
    layer: LSTMP, weights: _Weights, gates_of: Gates, active: list[int], y: Tensor, state: LSTMPState
) -> None:
    """Run all steps from the state h (D, B, P), c (D, B, H); fill y (D, T, B, P) and update c in place."""
    (h, c), dtype = state, weights.dtype
    tanh_c, m = torch.empty_like(c), torch.empty_like(c)
    start = 0
    while start < len(active):
        steps = slice(start, start + max(1, _PLACES_AT_ONCE // max(1, active[start])))
        gates = gates_of(steps, active[start])
        for t in range(gates.shape[1]):
            rows = active[start + t]
            add_packed_matmul_(gates[:, t, :rows], h[:, :rows].to(dtype), weights.recurrent)
            cell_forward(gates[:, t, :rows], c[:, :rows], c[:, :rows], tanh_c[:, :rows], m[:, :rows], layer.cell_clip)
            y[:, start + t, :rows] = packed_matmul(m[:, :rows].to(dtype), weights.proj)
            h = y[:, start + t].clamp_(-layer.proj_clip, layer.proj_clip)
        start = steps.stop
