"""bilm-tf's options and weights as in its own files, and their meaning.

It is written from bilm-tf's model.py and TF's LSTMCell, not from pipeline/model/formats; the two must agree.
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipeline.config.schema import ModelConfig
from tests.model.numpy_bilm import Array, NumpyBiLM

Arrays = dict[str, Array]
Options = dict[str, Any]


def options(
    *, dim: int, projection: int, filters: list[list[int]], layers: int = 2, highways: int = 1,
    activation: str = "relu", character_dim: int = 3, max_characters: int = 50, skip: bool = True,
    cell_clip: float | None = 3, proj_clip: float | None = 3, n_characters: int = 262,
) -> Options:  # fmt: skip
    """Return options.json as bilm-tf writes it."""
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
    """Return the shape of every variable that bilm-tf makes (model.py:295-440).

    The projection of a cell is there only if the cell has one.
    """
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
    """Write options.json and weights.hdf5 as bilm-tf's dump_weights writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "options.json").write_text(json.dumps(given))
    with h5py.File(folder / "weights.hdf5", "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, array.shape, dtype="float32")[...] = array
    return folder / "options.json", folder / "weights.hdf5"


def numpy_bilm(given: Options, arrays: Arrays) -> NumpyBiLM:
    """Return the slow model with bilm-tf's weights, transposed where NumpyBiLM multiplies from the other side."""
    cnn, lstm = given["char_cnn"], given["lstm"]
    w = {"encoder.char_embed": arrays["char_embed"]}
    for k in range(len(cnn["filters"])):
        w[f"encoder.convolutions.{k}.weight"] = arrays[f"CNN/W_cnn_{k}"][0].transpose(2, 1, 0)
        w[f"encoder.convolutions.{k}.bias"] = arrays[f"CNN/b_cnn_{k}"]
    for k in range(cnn["n_highway"]):
        for part in ("carry", "transform"):
            w[f"encoder.highways.{k}.{part}.weight"] = arrays[f"CNN_high_{k}/W_{part}"].T
            w[f"encoder.highways.{k}.{part}.bias"] = arrays[f"CNN_high_{k}/b_{part}"]
    if "CNN_proj/W_proj" in arrays:
        w["encoder.projection.weight"] = arrays["CNN_proj/W_proj"].T
        w["encoder.projection.bias"] = arrays["CNN_proj/b_proj"]
    projection = lstm["projection_dim"]
    has_projection = projection < lstm["dim"]  # otherwise TF's cell has no projection and no clip of its output
    for k in range(lstm["n_layers"]):
        cells = [cell_name(direction, k) for direction in range(2)]
        kernels = np.stack([arrays[f"{cell}/W_0"] for cell in cells])
        w[f"layers.{k}.weight_input"], w[f"layers.{k}.weight_recurrent"] = np.split(kernels, [projection], axis=1)
        w[f"layers.{k}.bias"] = np.stack([arrays[f"{cell}/B"] for cell in cells])
        w[f"layers.{k}.weight_proj"] = np.stack(
            [arrays[f"{cell}/W_P_0"] if has_projection else np.eye(projection) for cell in cells]
        )
    config = ModelConfig(
        character_dim=cnn["embedding"]["dim"], filters=cnn["filters"], activation=cnn["activation"],
        max_characters=cnn["max_characters_per_token"], num_highway=cnn["n_highway"], lstm_dim=lstm["dim"],
        projection_dim=projection, num_layers=lstm["n_layers"], cell_clip=lstm["cell_clip"],
        proj_clip=lstm["proj_clip"] if has_projection else None, skip_connections=lstm["use_skip_connections"],
    )  # fmt: skip
    return NumpyBiLM(w, config)
