"""The LSTM layers where no gradient is wanted: the numbers of `BiLM.read`, in less time and memory.

A row that has ended is computed no further, a word's part of the first layer's gates is made once however often it
stands in the window, and gates are kept for some steps only, however long the window is.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.backend.matmul import Matrices, add_products, compute_dtype, packed, products_into
from pipeline.model.bilm import BiLM, States
from pipeline.model.lstmp import LSTMP, LSTMPState, cell_forward, run_bias

Gates = Callable[[slice, int], Tensor]
"""gates(steps, rows) -> (directions, steps, rows, 4 H): the input's part, bias included."""

ROW_MULTIPLE = 4
"""Products have so many rows or a multiple: rows left over (one of oneDNN's, one to three of MKL's) go through other
code, which rounds otherwise, and a sentence read alone would not have, to the bit, the vectors it has in company."""

_PLACES_AT_ONCE = 1024  # steps x rows whose gates are held together
_WORD_GATES = 1 << 26  # values of the gates of a window's words: more than 256 MiB of them are not kept


class _Weights(NamedTuple):
    """A layer's, for many products: of each direction, or as they are. bias (2, 4 H): what runs."""

    input: Matrices
    recurrent: Matrices
    proj: Matrices
    bias: Tensor

    def of(self, d: slice) -> "_Weights":
        return _Weights(self.input[d], self.recurrent[d], self.proj[d], self.bias[d])


def version_of(module: nn.Module) -> list[tuple[object, ...]]:
    """Changes when a weight is written to or replaced; tensors born in inference mode count no writes."""
    return [(id(p), p.data_ptr(), 0 if p.is_inference() else p._version) for p in module.parameters()]


class Reader:
    """Reads with one biLM; keeps its weights as products like them best, and makes these anew when it has changed."""

    def __init__(self, bilm: BiLM) -> None:
        self._bilm = bilm
        self._weights: list[_Weights] = []
        self._made_of: list[tuple[object, ...]] = []

    @torch.no_grad()
    def read(
        self, words_up: Tensor, index_dtb: Tensor, steps: list[int], states: States
    ) -> tuple[list[Tensor], States]:
        """As `bilm.read` of words[index], row b for steps[b] steps only; behind them layers hold nothing of meaning.

        steps (B,) must fall. The next states are those after the last step.
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
            y, next_state = _read(layer, self._weights[depth], x, words, active, state)
            x = y.add_(x) if depth and self._bilm.config.skip_connections else y
            outputs.append(x)
            next_states.append(LSTMPState(next_state.h[:, :rows], next_state.c[:, :rows]))
        return [output[:, :, :rows] for output in outputs], next_states

    def _prepare(self, dtype: torch.dtype, state_dtype: torch.dtype) -> None:
        made_of = [*version_of(self._bilm.layers), (dtype, state_dtype)]
        if made_of == self._made_of:
            return
        self._weights = []
        for layer in self._bilm.layers:
            assert isinstance(layer, LSTMP)
            whole = (layer.weight_input, layer.weight_recurrent, layer.weight_proj)
            once, often, last = (packed(matrices.to(dtype)) for matrices in whole)
            self._weights.append(_Weights(once, often, last, run_bias(layer.bias, state_dtype)))
        self._made_of = made_of


def _read(
    layer: LSTMP, weights: _Weights, x: Tensor, words: tuple[Tensor, Tensor] | None, active: list[int],
    state: LSTMPState,
) -> tuple[Tensor, LSTMPState]:  # fmt: skip
    """words: (words, index), where x is of words. On a CPU one direction after the other: its weights stay in cache."""
    y, c = state.h.new_zeros(*x.shape[:3], layer.proj_dim), state.c.clone()
    directions = [slice(0, 1), slice(1, 2)] if x.device.type == "cpu" else [slice(0, 2)]
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        for d in directions:
            keeps_words = words is not None and layer.bias[d].numel() * len(words[0]) <= _WORD_GATES
            if keeps_words and words is not None:
                gates = _gates_of_words(weights.of(d), d, words[0].to(dtype), words[1])
            else:
                gates = _gates_of_places(weights.of(d), d, x, dtype)
            _read_steps(layer, weights.of(d), gates, dtype, active, y[d], state.h[d], c[d])
    last = y[:, -1].clone()  # y may yet become the layer's output, input added
    return y, LSTMPState(last, c)


def _input_product(x: Tensor, weights: _Weights) -> Tensor:
    """As `input_gates`, but by the same product of two matrices whatever the shapes."""
    gates = weights.bias.unsqueeze(1).repeat(1, x.shape[1] * x.shape[2], 1)
    add_products(gates, x.flatten(1, 2), weights.input)
    return gates.view(*x.shape[:3], -1)


def _gates_of_words(weights: _Weights, d: slice, words: Tensor, index: Tensor) -> Gates:
    table = _input_product(words.expand(len(weights.bias), 1, *words.shape), weights).squeeze(1)
    return lambda steps, rows: torch.stack(
        [F.embedding(i, of_word) for i, of_word in zip(index[d, steps, :rows], table, strict=True)]
    )


def _gates_of_places(weights: _Weights, d: slice, x: Tensor, dtype: torch.dtype) -> Gates:
    return lambda steps, rows: _input_product(x[d, steps, :rows].to(dtype), weights)


def _read_steps(
    layer: LSTMP, weights: _Weights, gates_of: Gates, dtype: torch.dtype, active: list[int], y: Tensor, h: Tensor,
    c: Tensor,
) -> None:  # fmt: skip
    """Fill y (D, T, B, P) and take c (D, B, H) to the end; h (D, B, P) is where it starts."""
    tanh_c, m = torch.empty_like(c), torch.empty_like(c)
    start = 0
    while start < len(active):
        steps = slice(start, start + max(1, _PLACES_AT_ONCE // max(1, active[start])))
        gates = gates_of(steps, active[start])
        for t in range(gates.shape[1]):
            rows = active[start + t]
            add_products(gates[:, t, :rows], h[:, :rows].to(dtype), weights.recurrent)
            cell_forward(gates[:, t, :rows], c[:, :rows], c[:, :rows], tanh_c[:, :rows], m[:, :rows], layer.cell_clip)
            products_into(y[:, start + t, :rows], m[:, :rows].to(dtype), weights.proj)
            h = y[:, start + t].clamp_(-layer.proj_clip, layer.proj_clip)
        start = steps.stop
