"""A model folder from somebody else: what a command uses is checked first, and the rest is kept unchanged."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import Elmo
from pipeline.config.schema import ConfigError
from pipeline.model.bilm import BiLM
from pipeline.model.formats.pretrained import load_pretrained, save_pretrained
from pipeline.model.formats.weight_checks import parameter_shapes
from pipeline.model.language_model import LanguageModel
from tests.model import tiny
from tests.model.folders import edit, replace, replace_tensors

WORDS = ["<S>", "</S>", "<UNK>", "the", "Zürich"]
COUNTS = np.arange(5, 0, -1)
GENERAL = Path(__file__).parents[3] / "shared" / "models" / "general"
HUGE = 10**9


def save(folder: Path, **changes: Any) -> LanguageModel:
    bilm = tiny.bilm(tiny.config(**changes), vocab_size=len(WORDS))
    save_pretrained(folder, bilm, words=WORDS, counts=COUNTS, facts={"corpus": "novels"}, training={"run": {"seed": 7}})
    return bilm


def refused(folder: Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_pretrained(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(files=None), r"config\.json is damaged \(files is None"),
        (lambda c: c.update(model=None), r"config\.json is damaged \(model is None"),
        (lambda c: c.update(facts=None), r"config\.json is damaged \(facts is None"),
        (lambda c: c.pop("files"), r"config\.json is damaged \(files: field required\)"),
        (lambda c: c.pop("model"), r"config\.json is damaged \(model: field required\)"),
        (lambda c: c.pop("facts"), r"config\.json is damaged \(facts: field required\)"),
        (lambda c: c.pop("training"), r"config\.json is damaged \(training: field required\)"),
        (lambda c: c.pop("model_sha256"), r"\(model_sha256 is of others\)"),
        (lambda c: c.update(files=[]), r"files is \[\]"),
        (lambda c: c["files"].update({"../x": {"bytes": 1, "sha256": "0" * 64}}), r"\.\./x"),
        (lambda c: c["files"].update({"other.bin": {"bytes": 1, "sha256": "0" * 64}}), r"other\.bin"),
        (lambda c: c["files"].update({"counts.npy": None}), r"files\.counts\.npy is None"),
        (lambda c: c["files"]["counts.npy"].update(bytes=-1), r"files\.counts\.npy\.bytes is -1"),
        (lambda c: c["files"]["counts.npy"].update(sha256="0"), r"files\.counts\.npy\.sha256 is '0'"),
        (lambda c: c["files"].pop("model.safetensors"), r"names no model\.safetensors"),
        (lambda c: c["files"].pop("vocabulary.txt"), r"names no vocabulary\.txt"),
        (lambda c: c["files"].pop("softmax.safetensors"), r"does not name softmax\.safetensors, which lies beside"),
        (lambda c: c.update(vocabulary_size="5"), r"vocabulary_size is '5'"),
        (lambda c: c.update(vocabulary_size=None), r"has 5 words, not None"),
        (lambda c: c.update(format_version="2"), r"is of format version '2'"),
        (lambda c: c["model"].update(lstm_dim="6"), r"lstm_dim is '6'"),
        (lambda c: c["model"].update(lstm_dim=True), r"lstm_dim is True"),
        (lambda c: c["model"].update(lstm_dim=-6), r"model\.lstm_dim=-6 must be at least 1"),
        (lambda c: c["model"].update(num_heads=8), r"num_heads"),
        (lambda c: c["model"].update(filters=None), r"filters is None"),
        (lambda c: c["model"].update(filters=[[1, 2, 3]]), r"must be \[width, number\] pairs"),
        (lambda c: c["model"].update(cell_clip="${oc.env:HOME}"), r"cell_clip is '\$\{oc\.env:HOME\}'"),
        (lambda c: c["model"].update(cell_clip=float("nan")), r"cell_clip=nan must be"),
        (lambda c: c["model"].update(cell_clip=float("inf")), r"cell_clip=inf must be"),
    ],
)  # fmt: skip
def test_invalid_settings_are_refused_in_one_sentence(change: Callable[..., Any], message: str, tmp_path: Path) -> None:
    save(tmp_path)
    edit(tmp_path, change)
    refused(tmp_path, message)


@pytest.mark.parametrize("text", ["", "[]", "3", "null", "[" * 10_000, "{", '{"format": 1}', "\x80"])
def test_a_file_that_is_no_config_is_refused_in_one_sentence(text: str, tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    refused(tmp_path, r"config\.json (is damaged|does not describe a model)")


def test_values_that_only_inform_and_unknown_values_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bilm = save(tmp_path)
    training = {"train": {"a_key_of_tomorrow": 1, "epochs": "many"}, "new part": [1], "run": {"name": "${oc.env:HOME}"}}
    facts = {"corpus": 3, "tokens": "many", "step": -1, "perplexity": {"both": 10**400}, "of tomorrow": [1]}
    edit(tmp_path, lambda c: c.update(training=training, facts=facts, of_tomorrow=1))
    found = load_pretrained(tmp_path)
    assert found.training == training
    assert found.facts == {"of tomorrow": [1]}
    for name in ("corpus", "tokens", "step", "perplexity"):
        assert f"facts.{name}" in caplog.text
    assert found.config == bilm.config


def test_settings_that_were_edited_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    edit(tmp_path, lambda c: c["model"].update(cell_clip=0.5), rehash=False)
    refused(tmp_path, r"config\.json: the settings under `model` are not those that were written")


@pytest.mark.skipif(not GENERAL.is_dir(), reason=f"no model folder of version 1 at {GENERAL}")
def test_a_folder_of_version_1_without_a_hash_of_its_settings_still_loads() -> None:
    described = json.loads((GENERAL / "config.json").read_text())
    assert described["format_version"] == 1 and "model_sha256" not in described
    found = load_pretrained(GENERAL, softmax=False)
    assert found.config.lstm_dim == 512 and len(found.words or []) == 60000


@pytest.mark.parametrize("name", ["vocabulary.txt", "counts.npy"])
def test_a_vocabulary_or_counts_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    def npy(array: np.ndarray) -> bytes:
        np.save(tmp_path / "array.npy", array)
        return (tmp_path / "array.npy").read_bytes()

    good = "\n".join(WORDS) + "\n"
    contents = {
        "vocabulary.txt": [
            (good.encode("latin-1"), "is not UTF-8"), (b"a\n" + good.encode()[4:], "begins with"),
            (good.encode() + b"more\n", "has 6 words, not 5"),
        ],
        "counts.npy": [
            (npy(COUNTS.astype(np.float64)), "counts"), (npy(COUNTS[:4]), "counts"), (npy(-COUNTS), "counts"),
            (b"", "counts"), (b"\x93NUMPY\x01\0\x0a\0'''\n\n\n\n\n\n\n", "counts"), (npy(COUNTS)[:-4], "counts"),
            (npy(np.zeros(1, np.int64)).replace(b"(1,)", b"(%d,)" % HUGE), "counts"),
        ],
    }  # fmt: skip
    for data, message in contents[name]:
        save(tmp_path / "model")
        replace(tmp_path / "model", name, data)
        refused(tmp_path / "model", message)
        (tmp_path / "model" / "config.json").unlink()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["layers.1.weight_proj", "softmax.bias"])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(name: str, value: float, tmp_path: Path) -> None:
    bilm = save(tmp_path / "model")
    file = "softmax.safetensors" if name.startswith("softmax") else "model.safetensors"
    replace_tensors(tmp_path / "model", lambda t: t[name].view(-1)[-1].fill_(value), file)
    refused(tmp_path / "model", rf"{file}: {name} holds NaN or infinite values")
    with torch.no_grad():
        bilm.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(ConfigError, match=rf"{name} holds NaN or infinite values"):
        save_pretrained(tmp_path / "other", bilm, words=WORDS, counts=COUNTS)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_float_type_are_converted(
    dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bilm = save(tmp_path)
    name = "layers.0.bias"
    given = bilm.state_dict()[name].to(dtype) + (1e-12 if dtype == torch.float64 else 0)
    replace_tensors(tmp_path, lambda t: t.update({name: given}), "model.safetensors")
    found = load_pretrained(tmp_path).bilm.state_dict()
    assert all(tensor.dtype == torch.float32 for tensor in found.values())
    assert torch.equal(found[name], given.float())
    assert ("rounded to float32" in caplog.text) == (dtype == torch.float64)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8, torch.bool])
def test_weights_that_are_no_floats_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    save(tmp_path)
    replace_tensors(
        tmp_path, lambda t: t.update({"layers.0.bias": t["layers.0.bias"].to(dtype)}), "model.safetensors"
    )  # fmt: skip
    refused(tmp_path, r"layers\.0\.bias is of \w+, and must be float32, float16, bfloat16 or float64")


@pytest.mark.parametrize(
    "sizes",
    [
        {"lstm_dim": HUGE}, {"lstm_dim": 10**30}, {"projection_dim": HUGE}, {"num_layers": HUGE},
        {"num_highway": HUGE}, {"character_dim": HUGE}, {"filters": [[1, HUGE]]}, {"filters": [[1, 1]] * 200_000},
        {"filters": [[HUGE, 1]], "max_characters": HUGE}, {"max_characters": HUGE}, {"num_layers": 10_000},
        {"cell_clip": 10**400}, {"lstm_dim": 10**4299},
    ],
    ids=lambda sizes: " ".join(sizes),
)  # fmt: skip
def test_sizes_are_checked_against_the_weights_before_anything_is_built(
    sizes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path)
    edit(tmp_path, lambda c: c["model"].update(sizes))
    for network in ("BiLM", "LanguageModel"):
        # Nothing may be built with these sizes.
        monkeypatch.setattr(f"pipeline.model.formats.pretrained.{network}", None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tmp_path, r"by config\.json|must be from 4 to|cell_clip|too large to be a size")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + (300 << 10)  # KiB


@pytest.mark.parametrize(
    "changes",
    [{}, {"num_highway": 0, "projection_dim": 8}, {"num_layers": 3, "num_highway": 2, "filters": [[3, 4]]}],
)
def test_the_predicted_shapes_are_those_of_the_model(changes: dict[str, Any]) -> None:
    config = tiny.config(**changes)
    for vocab_size, model in ((0, BiLM(config)), (7, LanguageModel(config, 7))):
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        assert dict(parameter_shapes(config, vocab_size)) == shapes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.update(num_outputs=HUGE), "num_outputs is 1000000000"),
        (lambda o: o.update(num_outputs="1"), "num_outputs is '1'"),
        (lambda o: o.update(dropout=2.0), "dropout is 2.0"),
        (lambda o: o.update(layers="all"), "layers='all' must be mix, top or 3 numbers"),
        (lambda o: o.update(layer_norm="yes"), "layer_norm"),
        (lambda o: o.update(device="cuda"), "device"),
        (lambda o: o.update(mixes=None), "mixes is None"),
        (lambda o: o.update(mixes=[{}]), "mixes"),
        (lambda o: o.update(mixes=[{"gamma": 1.0, "scalars": [1.0]}]), "mixes"),
        (lambda o: o.update(mixes=[{"gamma": "x", "scalars": [1.0] * 3}]), "mixes"),
        (lambda o: o.update(mixes=[{"gamma": float("nan"), "scalars": [1.0] * 3}]), "mixes"),
        (lambda o: o.update(mixes=[]), "mixes"),
    ],
)
def test_impossible_options_of_a_saved_elmo_are_refused_in_one_sentence(
    change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    Elmo(tiny.bilm(tiny.config())).save_pretrained(tmp_path)
    Elmo.from_pretrained(tmp_path)
    edit(tmp_path, lambda c: change(c["facts"]["elmo"]))
    with pytest.raises(ConfigError, match=message) as caught:
        Elmo.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)
    edit(tmp_path, lambda c: c["facts"].update(elmo=None))
    with pytest.raises(ConfigError, match=r"facts\.elmo"):
        Elmo.from_pretrained(tmp_path)
