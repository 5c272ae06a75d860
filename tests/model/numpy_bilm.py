"""A second biLM, slow and plain: NumPy in float64, one word, one place and one step at a time.

It is written from shared facts about bilm-tf (elmo-numerics), not from pipeline/model; the two must agree.
"""

import math

import numpy as np
from torch import Tensor

from pipeline.config.schema import ModelConfig

Array = np.ndarray
State = tuple[Array, Array]  # h (2, B, P), c (2, B, H)


def spelling(word: str, max_characters: int) -> list[int]:
    """Return the character ids of a word: 258, its first bytes, 259, then 260s.

    In place of bytes, a sentence bound has the one character 256 or 257.
    """
    if word in ("<S>", "</S>"):
        middle = [256] if word == "<S>" else [257]
    else:
        middle = list(word.encode())[: max_characters - 2]
    ids = [258, *middle, 259]
    return ids + [260] * (max_characters - len(ids))


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def clip(x: Array, bound: float | None) -> Array:
    return x if bound is None else np.clip(x, -bound, bound)


class NumpyBiLM:
    """A biLM in NumPy, with the weights of a state_dict."""

    def __init__(self, weights: dict[str, Tensor] | dict[str, Array], config: ModelConfig) -> None:
        self.w = {name: np.asarray(values).astype(np.float64) for name, values in weights.items()}
        self.config = config

    def layers(self, sentence: list[str]) -> Array:
        """Return (L + 1, words, 2 P) of one sentence from cold states, without its bounds."""
        words = ["<S>", *sentence, "</S>"]
        layers, _ = self.run([[[w] for w in words], [[w] for w in reversed(words)]], self.cold_states(1))
        return np.stack([np.concatenate([y[0, 1:-1, 0], y[1, ::-1][1:-1, 0]], 1) for y in layers])

    def encode(self, word: str) -> Array:
        """Return the vector (P,) of one word."""
        characters = self.w["encoder.char_embed"][spelling(word, self.config.max_characters)]
        x = np.concatenate([self._peak(characters, k, width) for k, (width, _) in enumerate(self.config.filters)])
        x = np.maximum(x, 0.0) if self.config.activation == "relu" else np.tanh(x)
        for k in range(self.config.num_highway):
            x = self._highway(x, f"encoder.highways.{k}")
        if "encoder.projection.weight" not in self.w:
            assert len(x) == self.config.projection_dim
            return x
        return self.w["encoder.projection.weight"] @ x + self.w["encoder.projection.bias"]

    def _peak(self, characters: Array, number: int, width: int) -> Array:
        """Return the maximum of each filter over every window of the row, pads included."""
        kernel, bias = (self.w[f"encoder.convolutions.{number}.{name}"] for name in ("weight", "bias"))
        peak = np.full(len(bias), -np.inf)
        for start in range(len(characters) - width + 1):
            value = bias.copy()
            for offset in range(width):
                value += kernel[:, :, offset] @ characters[start + offset]
            peak = np.maximum(peak, value)
        return peak

    def _highway(self, x: Array, name: str) -> Array:
        gate = sigmoid(self.w[f"{name}.carry.weight"] @ x + self.w[f"{name}.carry.bias"])
        new = np.maximum(self.w[f"{name}.transform.weight"] @ x + self.w[f"{name}.transform.bias"], 0.0)
        return gate * new + (1.0 - gate) * x

    def cold_states(self, num_lanes: int) -> list[State]:
        c = self.config
        return [
            (np.zeros((2, num_lanes, c.projection_dim)), np.zeros((2, num_lanes, c.lstm_dim)))
            for _ in range(c.num_layers)
        ]

    def run(
        self, words_dtb: list[list[list[str]]], states: list[State], factors: list[Array] | None = None
    ) -> tuple[list[Array], list[State]]:
        """Return all layers, each (2, T, B, P), of words [direction][time step][lane], and the next states.

        factors: what dropout multiplies by, (2, T, B, P) for the input of each layer and for the top output.
        """
        x = np.array([[[self.encode(word) for word in row] for row in steps] for steps in words_dtb])
        layers, next_states = [x], []
        for depth in range(self.config.num_layers):
            if factors is not None:
                x = x * factors[depth]
            y, state = self._lstm(depth, x, states[depth])
            x = y + x if depth >= 1 and self.config.skip_connections else y
            layers.append(x)
            next_states.append(state)
        if factors is not None:
            layers[-1] = layers[-1] * factors[-1]
        return layers, next_states

    def _lstm(self, depth: int, x: Array, state: State) -> tuple[Array, State]:
        y, h, c = np.empty_like(x), state[0].copy(), state[1].copy()
        for d in range(x.shape[0]):
            for t in range(x.shape[1]):
                for b in range(x.shape[2]):
                    h[d, b], c[d, b] = self._cell(depth, d, x[d, t, b], h[d, b], c[d, b])
                    y[d, t, b] = h[d, b]
        return y, (h, c)

    def _cell(self, depth: int, d: int, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        """Compute one step of one lane: TF's LSTMCell with a projection and both clips."""
        names = ("weight_input", "weight_recurrent", "bias", "weight_proj")
        w_input, w_recurrent, bias, w_proj = (self.w[f"layers.{depth}.{name}"][d] for name in names)
        kernel = np.concatenate([w_input, w_recurrent])
        i, j, f, o = np.split(np.concatenate([x, h]) @ kernel + bias, 4)
        c = clip(sigmoid(f + 1.0) * c + sigmoid(i) * np.tanh(j), self.config.cell_clip)
        return clip((sigmoid(o) * np.tanh(c)) @ w_proj, self.config.proj_clip), c

    def losses(self, top_dtbp: Array, targets_dtb: Array) -> Array:
        """Return -log p of every target under the full softmax, (2, T, B)."""
        losses = np.empty(targets_dtb.shape)
        for place in np.ndindex(*targets_dtb.shape):
            logits = self.w["softmax.weight"] @ top_dtbp[place] + self.w["softmax.bias"]
            top = logits.max()
            losses[place] = top + np.log(np.exp(logits - top).sum()) - logits[targets_dtb[place]]
        return losses


def expected_counts(word_ids: np.ndarray, vocab_size: int, num_tries: int) -> np.ndarray:
    """Return how often each word is expected in a set of unique candidates that took num_tries draws, in float64."""
    word_ids = np.asarray(word_ids, dtype=np.float64)
    probability = np.log1p(1 / (word_ids + 1)) / math.log(vocab_size + 1)
    return -np.expm1(num_tries * np.log1p(-probability))
