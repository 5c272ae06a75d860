"""A model as a folder: everything in it is loaded again, and an incomplete folder does not load."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.schema import ConfigError, ModelConfig
from pipeline.model.bilm import BiLM
from pipeline.model.formats.hub import HubId
from pipeline.model.formats.pretrained import load_pretrained, save_pretrained
from pipeline.model.language_model import LanguageModel
from tests.model import tiny
from tests.model.folders import edit
from tests.processes import killed_at

WORDS = ["<S>", "</S>", "<UNK>", "the", "Zürich", "a\u2028b", "\x85", "漢字", "😀", "\ufeff"]
COUNTS = np.arange(10, 0, -1)
FACTS = {"corpus": "novels", "tokens": 1_234_567, "perplexity": {"both": 42.5, "forward": 41.25, "tokens": 99}}


def save(folder: Path, **changes: Any) -> LanguageModel:
    bilm = tiny.bilm(tiny.config(**changes), vocab_size=len(WORDS))
    save_pretrained(folder, bilm, words=WORDS, counts=COUNTS, facts=FACTS, training={"run": {"seed": 7}})
    return bilm


def test_everything_that_was_saved_is_loaded_bitwise(tmp_path: Path) -> None:
    bilm = save(tmp_path / "model", cell_clip=None, skip_connections=False)
    back = load_pretrained(tmp_path / "model")
    assert back.config == bilm.config
    assert back.words == WORDS and back.counts is not None and back.counts.tolist() == COUNTS.tolist()
    assert back.facts == FACTS and back.training == {"run": {"seed": 7}}
    assert back.bilm.state_dict().keys() == bilm.state_dict().keys()
    assert all(torch.equal(t, back.bilm.state_dict()[name]) for name, t in bilm.state_dict().items())
    assert not back.bilm.training and not any(p.requires_grad for p in back.bilm.parameters())


def test_a_model_without_softmax_or_vocabulary_is_loaded_without_them(tmp_path: Path) -> None:
    bilm = BiLM(tiny.config())
    save_pretrained(tmp_path / "model", bilm)
    back = load_pretrained(str(tmp_path / "model"))
    assert type(back.bilm) is BiLM and back.words is None and back.counts is None and back.training is None
    assert all(torch.equal(t, back.bilm.state_dict()[name]) for name, t in bilm.state_dict().items())


def test_plain_safetensors_opens_the_weights_in_float32(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    bilm = tiny.bilm(tiny.config(), vocab_size=len(WORDS), dtype=torch.float64)
    save_pretrained(tmp_path, bilm, words=WORDS, counts=COUNTS)
    model, softmax = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "softmax.safetensors")
    assert sorted(softmax) == ["softmax.bias", "softmax.weight"]
    assert model.keys() | softmax.keys() == bilm.state_dict().keys()
    assert all(torch.equal(t, bilm.state_dict()[name].float()) for name, t in {**model, **softmax}.items())
    assert (tmp_path / "vocabulary.txt").read_bytes().decode().split("\n") == [*WORDS, ""]


def test_every_file_has_the_mode_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    save(tmp_path / "model")
    assert {f.stat().st_mode for f in (tmp_path / "model").iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_the_file_of_the_softmax_is_not_read_if_the_softmax_is_not_needed(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "softmax.safetensors").unlink()
    found = load_pretrained(tmp_path, softmax=False)
    assert type(found.bilm) is BiLM and found.words == WORDS
    with pytest.raises(ConfigError, match=r"softmax\.safetensors is missing; copy or export the model again"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "softmax.safetensors", "vocabulary.txt", "counts.npy"])
def test_a_changed_or_missing_file_is_named(name: str, tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    for damaged, fault in (
        (whole[:-1], rf"{name} has \d+ bytes, not {len(whole)}"),
        (whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:], rf"{name} is damaged"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=fault):
            load_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(ConfigError, match=f"{name} is missing"):
        load_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "does not describe a model of this project"),
        (lambda c: c.update(format_version=3), "is of format version 3, this is .*, which reads versions 1 and 2"),
        (lambda c: c["model"].update(num_heads=8), "num_heads"),
        (lambda c: c["model"].update(lstm_dim="wide"), "lstm_dim"),
        (lambda c: c["model"].update(lstm_dim=-6), r"model\.lstm_dim=-6 must be at least 1"),
        (lambda c: c["model"].update(lstm_dim=7), r"layers\.0\.bias is \(2, 24\), and \(2, 28\) by config\.json"),
        (lambda c: c["model"].update(num_layers=3), r"layers\.2\.bias is absent, and"),
        (lambda c: c["model"].update(num_layers=1), r"layers\.1\.bias is \(2, 24\), and absent by config\.json"),
        (lambda c: c.pop("files"), r"files: field required"),
        (lambda c: c["files"].pop("model.safetensors"), r"names no model\.safetensors"),
        (lambda c: c.update(vocabulary_size=4), "has 10 words, not 4"),
    ],
)
def test_a_config_that_does_not_fit_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
) -> None:
    save(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(ConfigError, match=message) as caught:
        load_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_config_that_is_missing_or_not_json_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is damaged"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"has no config\.json \(the export was cut short\)"):
        load_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"has no config\.json \(it is no exported model\)"):
        load_pretrained(tmp_path.parent)
    with pytest.raises(ConfigError, match="no such folder"):
        load_pretrained(tmp_path / "other")


def test_a_folder_whose_writing_was_killed_does_not_load_and_can_be_written_again(tmp_path: Path) -> None:
    kills = 0
    while killed_at(kills + 1, lambda: save(tmp_path / "model")):
        kills += 1
        with pytest.raises(ConfigError, match=r"has no config\.json"):
            load_pretrained(tmp_path / "model")
    assert kills == 6  # one kill before each file
    assert load_pretrained(tmp_path / "model").words == WORDS
    assert len(list((tmp_path / "model").iterdir())) == 6, "what killed writers left is gone"


def test_a_folder_whose_overwriting_was_killed_does_not_load(tmp_path: Path) -> None:
    save(tmp_path)
    new = BiLM(tiny.config())
    assert killed_at(2, lambda: save_pretrained(tmp_path, new, overwrite=True))
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        load_pretrained(tmp_path)
    save_pretrained(tmp_path, new)
    assert load_pretrained(tmp_path).words is None
    assert sorted(f.name for f in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_nothing_is_overwritten_without_overwrite_true(tmp_path: Path) -> None:
    bilm = save(tmp_path / "model")
    with pytest.raises(ConfigError, match="holds a model; give another folder, or overwrite=true"):
        save_pretrained(tmp_path / "model", bilm, words=WORDS, counts=COUNTS)
    with pytest.raises(ConfigError, match=r"holds other things \(model\); give a new folder"):
        save_pretrained(tmp_path, bilm, words=WORDS, counts=COUNTS)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file; give a folder"):
        save_pretrained(tmp_path / "file", bilm, words=WORDS, counts=COUNTS)
    shutil.rmtree(tmp_path / "model")
    (tmp_path / "model").mkdir()
    save(tmp_path / "model")


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    bilm = tiny.bilm(tiny.config(), vocab_size=len(WORDS))
    for words, counts in ((None, None), (WORDS, None), (WORDS[:-1], COUNTS[:-1]), (WORDS, COUNTS[:-1])):
        with pytest.raises(ConfigError):
            save_pretrained(tmp_path, bilm, words=words, counts=counts)
    with pytest.raises(ConfigError, match="holds a line end"):
        save_pretrained(tmp_path, bilm, words=[*WORDS[:-1], "a\nb"], counts=COUNTS)
    assert not list(tmp_path.iterdir())


def test_the_card_shows_corpus_tokens_perplexity_and_settings(tmp_path: Path) -> None:
    save(tmp_path, num_highway=2)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: elmo-pipeline\n")
    for line in (
        "| Corpus | novels |", "| Training tokens, each way | 1,234,567 |", "**42.50**, forward 41.25, 99 tokens",
        "full softmax", "| Vocabulary | 10 words |", "2 highway layers", "To be chosen", "| Trained with | unknown |",
    ):  # fmt: skip
        assert line in card, line


def test_the_card_describes_installation_input_and_the_layout_of_weights(tmp_path: Path) -> None:
    save(tmp_path)
    card = (tmp_path / "README.md").read_text()
    for line in (
        "$ git clone URL elmo && cd elmo", "URL stands for where you have its repository from.",
        "$ sh install.sh .venv hub,text,weights", "Tokenised text: a sentence is a list of words", "tokenize=true",
        "i, j, f, o (input, candidate, forget, output), 6 values each", "1.0 is added to the forget gate's bias",
        "A word is 50 character ids: 258, its UTF-8 bytes (0 to 255), 259, and 260", "258, 256, 259 (`<S>`)",
        "docs/reference/formats.md",
    ):  # fmt: skip
        assert line in card, line
    bilm = tiny.bilm(tiny.config(), vocab_size=len(WORDS))
    save_pretrained(tmp_path, bilm, words=WORDS, counts=COUNTS, overwrite=True, hub="org/name")
    card = (tmp_path / "README.md").read_text()
    assert 'from_pretrained("org/name")' in card and "ORG/NAME" not in card
    earlier = [{"source": "weights.hdf5", "corpus": None, "corpus_fingerprint": None, "tokens": None}]
    facts = {"corpus": "a | b\nc", "tokens": 5, "pretrained_on": earlier}
    save_pretrained(tmp_path, bilm, words=WORDS, counts=COUNTS, overwrite=True, facts=facts)
    card = (tmp_path / "README.md").read_text()
    assert "| Pretrained on | weights.hdf5 (tokens unknown) |\n| Fine-tuned on | a / b c |" in card


def test_a_hub_id_cannot_be_mistaken_for_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert HubId.parse("org/name") == HubId("org/name", None)
    assert HubId.parse("org/na.me-2@refs/pr/1") == HubId("org/na.me-2", "refs/pr/1")
    for path in ("runs/first", "name", "./org/name", "/org/name", "~/name", "a/b/c", "../name", "org/name.ckpt", ""):
        assert HubId.parse(path) is None, path


def test_a_missing_key_of_a_config_has_the_default_of_the_paper(tmp_path: Path) -> None:
    """A key that is missing in a config, as in that of a later version, has its default."""
    save(tmp_path)
    edit(tmp_path, lambda c: c["model"].pop("dropout"))
    assert load_pretrained(tmp_path).config.dropout == ModelConfig.dropout
