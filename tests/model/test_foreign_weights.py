"""HDF5 weights and options from somebody else: converted, or refused in one sentence before memory is allocated."""

import json
import resource
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pipeline.config.schema import ConfigError
from pipeline.model.bilm import BiLM
from pipeline.model.formats.bilm_tf_options import read_options, read_vocabulary, refusals
from pipeline.model.formats.bilm_tf_weights import load_bilm, save_weights
from tests.model import tf_bilm, tiny
from tests.model.tf_bilm import Arrays, Options

CELL = tf_bilm.cell_name(1, 1)
HUGE = 10**9


def small() -> Options:
    return tf_bilm.options(dim=4, projection=3, filters=[[1, 2], [2, 3]])


def write(folder: Path, arrays: Arrays, options: Options | None = None) -> tuple[Path, Path]:
    """Write the arrays with the types that they have."""
    paths = tf_bilm.write(folder, options or small(), {})
    with h5py.File(paths[1], "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    return paths


def imported(options: Path, weights: Path) -> BiLM:
    return load_bilm(weights, read_options(options))


def refused(paths: tuple[Path, Path], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        imported(*paths)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_neither_imported_nor_exported(value: float, tmp_path: Path) -> None:
    arrays = tf_bilm.random_arrays(small(), 0)
    arrays[f"{CELL}/W_0"][-1, -1] = value
    refused(write(tmp_path, arrays), rf"{CELL}/W_0 holds NaN or infinite values")
    bilm = tiny.bilm(tiny.config())
    with torch.no_grad():
        bilm.state_dict()["layers.0.bias"][0, 0] = value
    with pytest.raises(ConfigError, match=r"layers\.0\.bias holds NaN or infinite values"):
        save_weights(tmp_path / "out.hdf5", bilm)
    assert not (tmp_path / "out.hdf5").exists()


@pytest.mark.parametrize("dtype", ["<f2", ">f8", "<f8"])
def test_weights_of_another_float_type_are_converted(
    dtype: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arrays = tf_bilm.random_arrays(small(), 0)
    given = {name: array.astype(dtype) + (1e-12 if "8" in dtype else 0) for name, array in arrays.items()}
    expected = {name: array.astype(np.float32) for name, array in given.items()}
    found = imported(*write(tmp_path / "a", given)).state_dict()
    assert ("rounded to float32" in caplog.text) == ("8" in dtype)
    plain = imported(*write(tmp_path / "b", expected)).state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found.items())


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.bool_, np.complex64, "S4"])
def test_weights_that_are_no_floats_are_refused(dtype: Any, tmp_path: Path) -> None:
    arrays = tf_bilm.random_arrays(small(), 0) | {f"{CELL}/B": np.zeros(16, dtype)}
    refused(write(tmp_path, arrays), rf"{CELL}/B is of .+, and must be of float32, float16 or float64")


def test_a_float64_too_large_for_float32_is_refused(tmp_path: Path) -> None:
    arrays = tf_bilm.random_arrays(small(), 0) | {f"{CELL}/B": np.full(16, 1e300)}
    refused(write(tmp_path, arrays), rf"{CELL}/B holds NaN or infinite values")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lstm.dim", HUGE), ("lstm.dim", 10**40), ("lstm.projection_dim", HUGE), ("lstm.n_layers", HUGE),
        ("char_cnn.n_highway", HUGE), ("char_cnn.embedding.dim", HUGE), ("char_cnn.filters", [[1, HUGE]]),
        ("char_cnn.filters", [[1, 10**4299]]),
        ("char_cnn.filters", [[1, 1]] * 200_000), ("char_cnn.max_characters_per_token", HUGE),
        ("lstm.n_layers", 10_000), ("lstm.cell_clip", 10**400),
    ],
)  # fmt: skip
def test_sizes_are_checked_against_the_weights_before_anything_is_built(
    key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: Any = small()
    *groups, last = key.split(".")
    group = options
    for name in groups:
        group = group[name]
    group[last] = value
    paths = write(tmp_path, tf_bilm.random_arrays(small(), 0), options)
    monkeypatch.setattr("pipeline.model.formats.bilm_tf_weights.BiLM", None)  # nothing may be built with these sizes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    wrong = "which the options ask for|for which the options have no place|by its options"
    refused(paths, f"{wrong}|must be from 4 to|must be a number|must be \\[\\[width")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (300 << 10)  # KiB


def test_a_dataset_without_the_values_it_claims_is_refused(tmp_path: Path) -> None:
    """A file of a few kilobytes may claim arrays of any size, or take its values from other files."""
    options = tf_bilm.options(dim=1 << 28, projection=3, filters=[[1, 2], [2, 3]])
    paths = tf_bilm.write(tmp_path, options, {})
    with h5py.File(paths[1], "w") as file:
        for name, shape in tf_bilm.shapes(options).items():
            file.create_dataset(name, shape, dtype="float32")
    assert paths[1].stat().st_size < 1 << 20
    refused(paths, "holds none or too few of the values that its shape asks for")
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(64))
    arrays = tf_bilm.random_arrays(small(), 0)
    del arrays[f"{CELL}/B"]
    paths = write(tmp_path / "other", arrays)
    with h5py.File(paths[1], "a") as file:
        file.create_dataset(f"{CELL}/B", (16,), "<f4", external=[(str(secret), 0, 64)])
    refused(paths, rf"{CELL}/B takes its values from another file")


@pytest.mark.parametrize("kind", ["external storage", "virtual dataset", "external link", "soft link"])
def test_weights_that_are_in_another_file_are_refused(tmp_path: Path, kind: str) -> None:
    """Otherwise a foreign file could name any file of this machine, and an export would publish its bytes."""
    arrays, name, other = tf_bilm.random_arrays(small(), 0), f"{CELL}/B", tmp_path / "other.hdf5"
    values = arrays.pop(name)
    paths = write(tmp_path / "model", arrays)
    with h5py.File(other, "w") as file:
        file["secret"] = values
    (tmp_path / "secret").write_bytes(values.tobytes())
    with h5py.File(paths[1], "a") as file:
        if kind == "external storage":
            file.create_dataset(
                name, values.shape, values.dtype, external=[(str(tmp_path / "secret"), 0, h5py.h5f.UNLIMITED)]
            )
        elif kind == "virtual dataset":
            layout = h5py.VirtualLayout(values.shape, values.dtype)
            layout[:] = h5py.VirtualSource(str(other), "secret", values.shape)
            file.create_virtual_dataset(name, layout)
        else:
            file[name] = h5py.ExternalLink(str(other), "/secret") if "external" in kind else h5py.SoftLink("/secret")
    refused(paths, f"{CELL}/B takes its values from another file" if "link" not in kind else f"lacks {CELL}/B")


def test_compressed_weights_are_read(tmp_path: Path) -> None:
    arrays = tf_bilm.random_arrays(small(), 0)
    plain = imported(*write(tmp_path / "a", arrays)).state_dict()
    options, weights = write(tmp_path / "b", {})
    with h5py.File(weights, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", shuffle=True)
    found = imported(options, weights).state_dict()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in found.items())


def test_a_flipped_byte_gives_a_model_or_one_sentence(tmp_path: Path) -> None:
    options, weights = write(tmp_path, tf_bilm.random_arrays(small(), 0))
    whole = weights.read_bytes()
    step = max(1, len(whole) // 400)
    for place in range(0, len(whole), step):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        weights.write_bytes(damaged)
        try:
            imported(options, weights)
        except ConfigError as error:
            assert "\n" not in str(error), error


def test_a_byte_order_mark_is_not_part_of_the_first_word(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("the\n<S>\ncat\n", encoding="utf-8-sig")
    assert read_vocabulary(tmp_path / "vocab.txt") == ["<S>", "</S>", "<UNK>", "the", "cat"]
    with pytest.raises(ConfigError, match="is a folder"):
        read_vocabulary(tmp_path)


@pytest.mark.parametrize("text", ["[" * 10_000, '{"lstm": {"dim": ' + "9" * 5000 + "}}", '{"char_cnn": [], "lstm": 3}'])
def test_a_file_that_holds_no_options_is_refused_in_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_options(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_model_with_more_layers_than_bilm_tf_reads_gives_a_warning() -> None:
    """model.py's _pretrained_initializer maps the names of eight layers and raises KeyError beyond."""
    assert refusals(tiny.config(num_layers=8, projection_dim=4)) == []
    (line,) = refusals(tiny.config(num_layers=9, projection_dim=4))
    assert line == "bilm-tf and simple_elmo read at most 8 layers, this model has 9"
    assert json.dumps(line)
