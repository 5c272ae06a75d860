"""Weights of other programs: imported weights mean the same here, and exported weights are imported bitwise."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config.schema import ConfigError, ModelConfig
from pipeline.model.bilm import BiLM
from pipeline.model.formats.bilm_tf_options import (
    read_options,
    read_vocabulary,
    refusals,
    write_options,
    write_vocabulary,
)
from pipeline.model.formats.bilm_tf_weights import load_bilm, name_table, save_weights
from tests.model import tf_bilm, tiny
from tests.model.bilm_tf_fixtures import embed
from tests.model.tf_bilm import Options

SENTENCE = ["the", "Zürich", "漢字", "x" * 60, "a"]


def imported(options: Path, weights: Path) -> BiLM:
    return load_bilm(weights, read_options(options))


def cold(bilm: BiLM, sentence: str) -> np.ndarray:
    return embed(bilm, sentence, bilm.initial_states(1))[0]


@st.composite
def architectures(draw: st.DrawFn) -> Options:
    """Draw any model that bilm-tf can write. In one of three, the token or the cell has no projection."""
    filters = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3))
    number = sum(n for _, n in filters)
    projection = draw(st.one_of(st.just(number), st.integers(1, 5), st.integers(1, 5)))
    clips = st.sampled_from([None, 3, 0.05, 0.3])
    return tf_bilm.options(
        dim=projection + draw(st.one_of(st.just(0), st.integers(1, 4), st.integers(1, 4))),
        projection=projection, filters=[list(f) for f in filters], layers=draw(st.integers(1, 3)),
        highways=draw(st.integers(0, 2)), activation=draw(st.sampled_from(["relu", "tanh"])),
        character_dim=draw(st.integers(1, 4)), max_characters=draw(st.integers(6, 50)), skip=draw(st.booleans()),
        cell_clip=draw(clips), proj_clip=draw(clips), n_characters=draw(st.sampled_from([261, 262])),
    )  # fmt: skip


@given(architecture=architectures(), seed=st.integers(0, 1 << 30))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_weights_of_any_architecture_give_the_same_layers_as_in_bilm_tf(
    architecture: Options, seed: int, tmp_path: Path
) -> None:
    arrays = tf_bilm.random_arrays(architecture, seed)
    bilm = imported(*tf_bilm.write(tmp_path, architecture, arrays))
    expected = tf_bilm.numpy_bilm(architecture, arrays).layers(SENTENCE)
    assert np.allclose(cold(bilm, " ".join(SENTENCE)), expected, atol=1e-5, rtol=1e-4)


@given(architecture=architectures(), seed=st.integers(0, 1 << 30))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_imported_weights_are_exported_unchanged(architecture: Options, seed: int, tmp_path: Path) -> None:
    arrays = tf_bilm.random_arrays(architecture, seed)
    bilm = imported(*tf_bilm.write(tmp_path / "theirs", architecture, arrays))
    save_weights(tmp_path / "ours.hdf5", bilm)
    with h5py.File(tmp_path / "ours.hdf5") as file:
        for name, array in arrays.items():
            assert file[name].dtype == np.float32 and np.array_equal(file[name][...], array), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"skip_connections": False, "cell_clip": None, "proj_clip": 0.5, "activation": "tanh", "dropout": 0.25},
        {"num_highway": 0, "projection_dim": 8, "num_layers": 1},
        {"projection_dim": 6, "proj_clip": 0.1},
        {"projection_dim": 7, "num_layers": 3, "max_characters": 11},
    ],
)
def test_exported_weights_are_imported_bitwise(changes: dict[str, Any], tmp_path: Path) -> None:
    bilm = tiny.bilm(tiny.config(**changes))
    write_options(tmp_path / "options.json", bilm.config)
    save_weights(tmp_path / "weights.hdf5", bilm)
    back = imported(tmp_path / "options.json", tmp_path / "weights.hdf5")
    assert back.config == bilm.config
    before = {name: tensor for name, tensor in bilm.state_dict().items() if not name.startswith("softmax.")}
    assert back.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in back.state_dict().items())


def test_the_table_names_every_value_of_the_model_exactly_once() -> None:
    state = {name: torch.zeros(t.shape) for name, t in BiLM(tiny.config()).state_dict().items()}
    for entry in name_table(tiny.config()):
        for part in entry.parts:
            part.view(state[part.parameter]).add_(1)
    assert all(bool((tensor == 1).all()) for tensor in state.values())


def test_big_endian_weights_are_read_correctly(tmp_path: Path) -> None:
    architecture = small()
    arrays = tf_bilm.random_arrays(architecture, 0)
    plain = imported(*tf_bilm.write(tmp_path / "a", architecture, arrays))
    options, weights = tf_bilm.write(tmp_path / "b", architecture, {})
    with h5py.File(weights, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array.astype(">f4"))
    turned = imported(options, weights).state_dict()
    assert all(torch.equal(tensor, turned[name]) for name, tensor in plain.state_dict().items())


def small() -> Options:
    return tf_bilm.options(dim=4, projection=3, filters=[[1, 2], [2, 3]])


CELL = tf_bilm.cell_name(1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{CELL}/B": None}, rf"lacks {CELL}/B, which the options ask for"),
        ({"CNN/W_cnn_0": None, "CNN/b_cnn_0": None}, r"lacks CNN/W_cnn_0, CNN/b_cnn_0, which"),
        ({"CNN_high_1/b_carry": np.zeros(5, np.float32)}, r"holds CNN_high_1/b_carry, for which the options have no"),
        ({"char_embed": np.zeros((262, 3), np.float32)}, r"char_embed has shape \(262, 3\), and \(261, 3\) by its op"),
        ({f"{CELL}/W_0": np.zeros((16, 6), np.float32)}, rf"{CELL}/W_0 has shape \(16, 6\), and \(6, 16\)"),
        ({f"{CELL}/B": np.zeros(16, np.int32)}, rf"{CELL}/B is of int32, and must be of float32"),
        ({f"{CELL}/W_P_0": None}, rf"lacks {CELL}/W_P_0"),
    ],
)
def test_a_wrong_dataset_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {n: a for n, a in (tf_bilm.random_arrays(small(), 0) | change).items() if a is not None}
    options, weights = tf_bilm.write(tmp_path, small(), {})
    with h5py.File(weights, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array)
    with pytest.raises(ConfigError, match=message):
        imported(options, weights)


def test_a_file_that_is_cut_short_is_refused_in_one_line(tmp_path: Path) -> None:
    options, weights = tf_bilm.write(tmp_path, small(), tf_bilm.random_arrays(small(), 0))
    whole = weights.read_bytes()
    imported(options, weights)
    for length in [*range(0, len(whole), len(whole) // 60), len(whole) - 1]:
        weights.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match=r"is not a whole HDF5 file \(.+\); copy it again") as caught:
            imported(options, weights)
        assert "\n" not in str(caught.value)


def test_weights_that_are_missing_or_not_hdf5_are_refused(tmp_path: Path) -> None:
    options, weights = tf_bilm.write(tmp_path, small(), {})
    weights.write_text("not HDF5")
    with pytest.raises(ConfigError, match="is not a whole HDF5 file"):
        imported(options, weights)
    with pytest.raises(ConfigError, match="no such file"):
        imported(options, tmp_path / "other.hdf5")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("char_cnn.embedding", None, r"lacks char_cnn\.embedding\.dim"),
        ("char_cnn.embedding", 16, r"char_cnn\.embedding\.dim is not where bilm-tf writes it"),
        ("lstm.dim", None, r"lacks lstm\.dim; give the options.json that came with the weights"),
        ("lstm.dim", "4", r"lstm\.dim is '4', and must be a number"),
        ("lstm.dim", 4.5, r"lstm\.dim is 4\.5, and must be a whole number"),
        ("lstm.dim", True, r"lstm\.dim is True, and must be a number"),
        ("lstm.dim", float("inf"), r"lstm\.dim is inf, and must be a number"),
        ("lstm.dim", 0, r"model\.lstm_dim=0 must be at least 1"),
        ("lstm.use_skip_connections", None, r"lacks lstm\.use_skip_connections"),
        ("lstm.use_skip_connections", 1, r"use_skip_connections is 1, and must be true or false"),
        ("lstm.cell_clip", 0, r"cell_clip is 0, `all zero` to bilm-tf, `no clip` to AllenNLP; write null"),
        ("lstm.proj_clip", -1, r"model\.proj_clip=-1\.0 must be positive"),
        ("char_cnn.n_characters", 60, r"n_characters is 60, and must be 262 or 261"),
        ("char_cnn.activation", "gelu", r"activation is 'gelu', and must be relu or tanh"),
        ("char_cnn.filters", [[1]], r"filters is \[\[1\]\], and must be \[\[width, number\], \.\.\.\]"),
        ("char_cnn.filters", [[60, 2]], r"each width from 1 to model\.max_characters=50"),
        ("bidirectional", False, "bidirectional must be true"),
        ("char_cnn", None, "has no char_cnn: a model of whole words"),
    ],
)
def test_a_wrong_option_is_named(key: str, value: Any, message: str, tmp_path: Path) -> None:
    options: Any = small()
    *groups, last = key.split(".")
    group = options
    for name in groups:
        group = group[name]
    group.pop(last)
    if value is not None:
        group[last] = value
    path = tmp_path / "options.json"
    path.write_text(json.dumps(options))
    with pytest.raises(ConfigError, match=message) as caught:
        read_options(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '"options"', "\x80"])
def test_options_that_are_not_json_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "options.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"is not JSON|holds no options"):
        read_options(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_options(tmp_path / "other.json")


def test_options_that_bilm_tf_leaves_out_have_its_defaults(tmp_path: Path) -> None:
    """By model.py the defaults are n_layers 1, no highways and no clips."""
    options: Any = small()
    for group, key in (("lstm", "n_layers"), ("lstm", "cell_clip"), ("lstm", "proj_clip"), ("char_cnn", "n_highway")):
        del options[group][key]
    for key in ("bidirectional", "dropout"):
        del options[key]
    (tmp_path / "options.json").write_text(json.dumps(options))
    config = read_options(tmp_path / "options.json")
    assert (config.num_layers, config.num_highway, config.cell_clip, config.proj_clip) == (1, 0, None, None)


def test_exported_options_are_for_inference(tmp_path: Path) -> None:
    write_options(tmp_path / "options.json", replace(ModelConfig(), cell_clip=None))
    options = json.loads((tmp_path / "options.json").read_text())
    assert options["char_cnn"]["n_characters"] == 262
    assert options["lstm"] | {"cell_clip": "null"} == {
        "cell_clip": "null", "dim": 4096, "n_layers": 2, "proj_clip": 3.0, "projection_dim": 512,
        "use_skip_connections": True,
    }  # fmt: skip
    assert options["lstm"]["cell_clip"] is None  # AllenNLP looks the key up


def test_the_programs_that_cannot_read_a_model_are_named() -> None:
    assert refusals(ModelConfig()) == []
    assert refusals(ModelConfig(skip_connections=False)) == [
        "AllenNLP refuses models without skip connections (model.skip_connections=false)"
    ]
    odd = tiny.config(projection_dim=8, max_characters=30)
    assert [line.split()[0] for line in refusals(odd)] == ["AllenNLP", "AllenNLP", "bilm-tf"]


def test_a_vocabulary_is_read_with_its_markers_first(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("</S>\n<S>\nthe\n<UNK>\n!!!MAXTERMID\nZürich\r\na", encoding="utf-8")
    assert read_vocabulary(path) == ["<S>", "</S>", "<UNK>", "the", "Zürich", "a"]
    write_vocabulary(path, read_vocabulary(path))
    assert path.read_text(encoding="utf-8") == "<S>\n</S>\n<UNK>\nthe\nZürich\na\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"the\n\na\n", r"vocab\.txt:2 is empty"),
        (b"the\na\nthe\n", r"vocab\.txt:3: 'the' stands there twice"),
        (b"<S>\n<S>\n", r"vocab\.txt:2: '<S>' stands there twice"),
        (b"the\n\xff\n", r"vocab\.txt is not UTF-8 text"),
    ],
)
def test_a_wrong_vocabulary_is_refused(text: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        read_vocabulary(path)
    with pytest.raises(ConfigError, match="no such file"):
        read_vocabulary(tmp_path / "other.txt")
