"""The translation model word by word in NumPy, from its equations: no batch, no padding, no packed sequences."""

from collections.abc import Sequence

import numpy as np

Weights = dict[str, np.ndarray]
State = tuple[np.ndarray, np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def lstm_step(x: np.ndarray, state: State, weights: Weights, name: str, end: str) -> State:
    """One step of torch's LSTM: gates i, f, g, o."""
    h, c = state
    gates = weights[f"{name}weight_ih{end}"] @ x + weights[f"{name}bias_ih{end}"]
    gates = gates + weights[f"{name}weight_hh{end}"] @ h + weights[f"{name}bias_hh{end}"]
    i, f, g, o = np.split(gates, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def encode(x: Sequence[np.ndarray], weights: Weights, num_layers: int) -> tuple[list[np.ndarray], list[State]]:
    """Return each layer's output (T, 2 hidden) and last state."""
    outputs, states = [], []
    layer_input = list(x)
    for layer in range(num_layers):
        name = f"encoder.layers.{layer}."
        hidden = weights[f"{name}weight_hh_l0"].shape[1]
        found: dict[str, tuple[list[np.ndarray], State]] = {}
        for end, order in (("_l0", 1), ("_l0_reverse", -1)):
            state: State = (np.zeros(hidden), np.zeros(hidden))
            read = []
            for value in layer_input[::order]:
                state = lstm_step(value, state, weights, name, end)
                read.append(state[0])
            found[end] = read[::order], state
        (forward, last), (backward, first) = found["_l0"], found["_l0_reverse"]
        layer_input = [np.concatenate(pair) for pair in zip(forward, backward, strict=True)]
        outputs.append(np.stack(layer_input))
        states.append((np.concatenate([last[0], first[0]]), np.concatenate([last[1], first[1]])))
    return outputs, states


def log_probability(
    x: Sequence[np.ndarray], previous: Sequence[int], target: Sequence[int], weights: Weights, num_layers: int
) -> float:
    """Return the log-probability of the target's words, each after those before it."""
    outputs, states = encode(x, weights, num_layers)
    context, total = outputs[-1], 0.0
    fed = np.zeros(context.shape[1])
    for before, word in zip(previous, target, strict=True):
        below = np.concatenate([weights["decoder.embedding.weight"][before], fed])
        for layer in range(num_layers):
            states[layer] = lstm_step(below, states[layer], weights, f"decoder.cells.{layer}.", "")
            below = states[layer][0]
        share = softmax(context @ (weights["decoder.attention.input.weight"] @ below))
        attended = share @ context
        fed = np.tanh(weights["decoder.attention.output.weight"] @ np.concatenate([attended, below]))
        total += float(np.log(softmax(weights["softmax.weight"] @ fed + weights["softmax.bias"])[word]))
    return total
