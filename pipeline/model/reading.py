"""The LSTM layers where no gradient is wanted: the numbers of `BiLM.read`, in less time and memory.

A row that has ended is computed no further, a word's part of the first layer's gates is made once however often it
stands in the window, and gates are kept for some steps only, however long the window is.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model.bilm import BiLM, States
from pipeline.model.lstmp import LSTMP, LSTMPState, add_product, cell_forward, compute_dtype, product_into, run_bias

Gates = Callable[[slice, int], Tensor]
"""gates(steps, rows) -> (directions, steps, rows, 4 H): the input's part, bias included."""

ROW_MULTIPLE = 4
"""Products have so many rows or a multiple: MKL does the one to three rows left over by other code, which rounds
otherwise, and a sentence read alone would not have, to the bit, the vectors that it has in company."""

_PLACES_AT_ONCE = 1024  # steps x rows whose gates are held together
_WORD_GATES = 1 << 26  # values of the gates of a window's words: more than 256 MiB of them are not kept


@torch.no_grad()
def read_words(
    bilm: BiLM, words_up: Tensor, index_dtb: Tensor, steps: list[int], states: States
) -> tuple[list[Tensor], States]:
    """As `bilm.read` of words[index], row b for steps[b] steps only; behind them layers hold nothing of meaning.

    steps (B,) must fall. The next states are those after the last step.
    """
    assert steps == sorted(steps, reverse=True)
    rows, missing = len(steps), -len(steps) % ROW_MULTIPLE
    if missing:
        states = [LSTMPState(*(F.pad(part, (0, 0, 0, missing)) for part in state)) for state in states]
        index_dtb = F.pad(index_dtb, (0, missing))
    words_up = F.pad(words_up, (0, 0, 0, -len(words_up) % ROW_MULTIPLE))
    running = [sum(length > t for length in steps) for t in range(index_dtb.shape[1])]
    active = [count + -count % ROW_MULTIPLE for count in running]
    x = F.embedding(index_dtb, words_up)
    outputs, next_states = [x], []
    for depth, (layer, state) in enumerate(zip(bilm.layers, states, strict=True)):
        assert isinstance(layer, LSTMP)
        y, next_state = _read(layer, x, None if depth else (words_up, index_dtb), active, state)
        x = y.add_(x) if depth and bilm.config.skip_connections else y
        outputs.append(x)
        next_states.append(LSTMPState(next_state.h[:, :rows], next_state.c[:, :rows]))
    return [output[:, :, :rows] for output in outputs], next_states


def _read(
    layer: LSTMP, x: Tensor, words: tuple[Tensor, Tensor] | None, active: list[int], state: LSTMPState
) -> tuple[Tensor, LSTMPState]:
    """words: (words, index), where x is of words. On a CPU one direction after the other: its weights stay in cache."""
    y, c = state.h.new_zeros(*x.shape[:3], layer.proj_dim), state.c.clone()
    directions = [slice(0, 1), slice(1, 2)] if x.device.type == "cpu" else [slice(0, 2)]
    dtype = compute_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        for d in directions:
            keeps_words = words is not None and layer.bias[d].numel() * len(words[0]) <= _WORD_GATES
            if keeps_words and words is not None:
                gates = _gates_of_words(layer, d, words[0].to(dtype), words[1], c.dtype)
            else:
                gates = _gates_of_places(layer, d, x, dtype, c.dtype)
            _read_steps(layer, d, gates, dtype, active, y[d], state.h[d], c[d])
    last = y[:, -1].clone()  # y may yet become the layer's output, input added
    return y, LSTMPState(last, c)


def _input_product(x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """As `input_gates`, but by the same product of two matrices whatever the shapes."""
    gates = run_bias(bias, dtype).unsqueeze(1).repeat(1, x.shape[1] * x.shape[2], 1)
    add_product(gates, x.flatten(1, 2), weight)
    return gates.view(*x.shape[:3], -1)


def _gates_of_words(layer: LSTMP, d: slice, words: Tensor, index: Tensor, dtype: torch.dtype) -> Gates:
    weight, bias = layer.weight_input[d].to(words.dtype), layer.bias[d]
    table = _input_product(words.expand(len(weight), 1, *words.shape), weight, bias, dtype).squeeze(1)
    return lambda steps, rows: torch.stack(
        [F.embedding(i, of_word) for i, of_word in zip(index[d, steps, :rows], table, strict=True)]
    )


def _gates_of_places(layer: LSTMP, d: slice, x: Tensor, low: torch.dtype, dtype: torch.dtype) -> Gates:
    weight, bias = layer.weight_input[d].to(low), layer.bias[d]
    return lambda steps, rows: _input_product(x[d, steps, :rows].to(low), weight, bias, dtype)


def _read_steps(
    layer: LSTMP, d: slice, gates_of: Gates, dtype: torch.dtype, active: list[int], y: Tensor, h: Tensor, c: Tensor
) -> None:
    """Fill y (D, T, B, P) and take c (D, B, H) to the end; h (D, B, P) is where it starts."""
    recurrent, proj = layer.weight_recurrent[d].to(dtype), layer.weight_proj[d].to(dtype)
    tanh_c, m = torch.empty_like(c), torch.empty_like(c)
    start = 0
    while start < len(active):
        steps = slice(start, start + max(1, _PLACES_AT_ONCE // max(1, active[start])))
        gates = gates_of(steps, active[start])
        for t in range(gates.shape[1]):
            rows = active[start + t]
            add_product(gates[:, t, :rows], h[:, :rows].to(dtype), recurrent)
            cell_forward(gates[:, t, :rows], c[:, :rows], c[:, :rows], tanh_c[:, :rows], m[:, :rows], layer.cell_clip)
            product_into(y[:, start + t, :rows], m[:, :rows].to(dtype), proj)
            h = y[:, start + t].clamp_(-layer.proj_clip, layer.proj_clip)
        start = steps.stop
