"""bilm-tf's model a third time, on its own arrays under its own names: what an HDF5 file of weights means.

Written from bilm-tf's model.py and from TF's LSTMCell; knows nothing of this project's tensors.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.model.numpy_bilm import Array, clip, sigmoid, spelling

Arrays = dict[str, Array]
Options = dict[str, Any]


def options(
    *, dim: int, projection: int, filters: list[list[int]], layers: int = 2, highways: int = 1,
    activation: str = "relu", character_dim: int = 3, max_characters: int = 50, skip: bool = True,
    cell_clip: float | None = 3, proj_clip: float | None = 3, n_characters: int = 262,
) -> Options:  # fmt: skip
    """options.json as bilm-tf has it."""
    return {
        "bidirectional": True,
        "char_cnn": {
            "activation": activation, "embedding": {"dim": character_dim}, "filters": filters, "n_highway": highways,
            "max_characters_per_token": max_characters, "n_characters": n_characters,
        },
        "dropout": 0.1,
        "lstm": {
            "dim": dim, "projection_dim": projection, "n_layers": layers, "use_skip_connections": skip,
            "cell_clip": cell_clip, "proj_clip": proj_clip,
        },
    }  # fmt: skip


def shapes(given: Options) -> dict[str, tuple[int, ...]]:
    """Every variable that bilm-tf makes (model.py:295-440), the projection of the cell only where it has one."""
    cnn, lstm = given["char_cnn"], given["lstm"]
    width_dim, filters = cnn["embedding"]["dim"], sum(number for _, number in cnn["filters"])
    found: dict[str, tuple[int, ...]] = {"char_embed": (261, width_dim)}
    for k, (width, number) in enumerate(cnn["filters"]):
        found |= {f"CNN/W_cnn_{k}": (1, width, width_dim, number), f"CNN/b_cnn_{k}": (number,)}
    for k in range(cnn["n_highway"]):
        for part in ("carry", "transform"):
            found |= {f"CNN_high_{k}/W_{part}": (filters, filters), f"CNN_high_{k}/b_{part}": (filters,)}
    dim, projection = lstm["dim"], lstm["projection_dim"]
    if filters != projection:
        found |= {"CNN_proj/W_proj": (filters, projection), "CNN_proj/b_proj": (projection,)}
    for cell in (cell_name(d, k) for d in range(2) for k in range(lstm["n_layers"])):
        found |= {f"{cell}/W_0": (2 * projection, 4 * dim), f"{cell}/B": (4 * dim,)}
        if projection < dim:
            found[f"{cell}/W_P_0"] = (dim, projection)
    return found


def cell_name(direction: int, layer: int) -> str:
    return f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"


def random_arrays(given: Options, seed: int) -> Arrays:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(0, 0.6, shape).astype(np.float32) for name, shape in shapes(given).items()}


def write(folder: Path, given: Options, arrays: Arrays) -> tuple[Path, Path]:
    """options.json and weights.hdf5 as bilm-tf's dump_weights leaves them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(json.dumps(given))
    with h5py.File(folder / "weights.hdf5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, array.shape, dtype="float32")[...] = array
    return folder / "options.json", folder / "weights.hdf5"


class TFBiLM:
    """One sentence at a time, states cold, float64."""

    def __init__(self, given: Options, arrays: Arrays) -> None:
        self.cnn, self.lstm = given["char_cnn"], given["lstm"]
        self.w = {name: array.astype(np.float64) for name, array in arrays.items()}

    def layers(self, sentence: list[str]) -> Array:
        """(L + 1, words, 2 P), sentence bounds left out."""
        tokens = np.stack([self.encode(word) for word in ["<S>", *sentence, "</S>"]])
        forward, backward = self._direction(0, tokens), self._direction(1, tokens[::-1])
        both = [np.concatenate([f, b[::-1]], axis=1)[1:-1] for f, b in zip(forward, backward, strict=True)]
        return np.stack(both)

    def encode(self, word: str) -> Array:
        x = self.w["char_embed"][spelling(word, self.cnn["max_characters_per_token"])]
        peaks = []
        for k, (width, _) in enumerate(self.cnn["filters"]):
            kernel, bias = self.w[f"CNN/W_cnn_{k}"][0], self.w[f"CNN/b_cnn_{k}"]
            places = range(len(x) - width + 1)
            peaks.append(np.max([np.einsum("wd,wdn->n", x[s : s + width], kernel) + bias for s in places], axis=0))
        y = np.concatenate(peaks)
        y = np.maximum(y, 0) if self.cnn["activation"] == "relu" else np.tanh(y)
        for k in range(self.cnn["n_highway"]):
            w = {part: self.w[f"CNN_high_{k}/{part}"] for part in ("W_carry", "b_carry", "W_transform", "b_transform")}
            gate = sigmoid(y @ w["W_carry"] + w["b_carry"])
            y = gate * np.maximum(y @ w["W_transform"] + w["b_transform"], 0) + (1 - gate) * y
        return y @ self.w["CNN_proj/W_proj"] + self.w["CNN_proj/b_proj"] if "CNN_proj/W_proj" in self.w else y

    def _direction(self, direction: int, x: Array) -> list[Array]:
        outputs = [x]
        for k in range(self.lstm["n_layers"]):
            y = self._cell(cell_name(direction, k), x)
            x = y + x if k and self.lstm["use_skip_connections"] else y
            outputs.append(x)
        return outputs

    def _cell(self, name: str, x: Array) -> Array:
        dim = self.lstm["dim"]
        m, c, outputs = np.zeros(self.lstm["projection_dim"]), np.zeros(dim), []
        for step in x:
            i, j, f, o = np.split(np.concatenate([step, m]) @ self.w[f"{name}/W_0"] + self.w[f"{name}/B"], 4)
            c = clip(sigmoid(f + 1) * c + sigmoid(i) * np.tanh(j), self.lstm["cell_clip"])
            m = sigmoid(o) * np.tanh(c)
            if f"{name}/W_P_0" in self.w:
                m = clip(m @ self.w[f"{name}/W_P_0"], self.lstm["proj_clip"])
            outputs.append(m)
        return np.stack(outputs)
