"""`elmo cove train`: from a parallel text to a model folder whose layers a task uses, stopped and resumed."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import cli
from pipeline.config.schema import ConfigError
from pipeline.tasks.cove.model import Cove, is_cove
from pipeline.tasks.layer_cache import LayerCache
from pipeline.tasks.layer_encoder import open_encoder
from pipeline.tasks.networks.sequences import WordTable
from tests.tasks import training
from tests.tasks.cove import numpy_translator
from tests.tasks.cove.parallel import arguments, make_files, train

TEXTS = [("the", "old", "Dog", "runs"), ("nothing",), ("a", "cat", "sees", "the", "moon", "and", "the", "river"), ()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files, and one whole run of 3 epochs."""
    folder = make_files(tmp_path_factory.mktemp("cove"))
    assert train(folder, "whole", "training.max_epochs=3") == 0
    return folder


@pytest.fixture(scope="module")
def cove(folder: Path) -> Cove:
    return Cove.from_pretrained(folder / "whole" / "model")


def test_perplexity_falls_and_the_result_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["network.init_range=0.5", "training.optimizer=adam", "training.learning_rate=0.02"]
    options += ["training.min_learning_rate=null", "network.hidden=16", "network.dropout=0"]
    assert train(folder, "learned", "training.max_epochs=25", *options) == 0
    printed = capsys.readouterr().out
    (perplexity,) = (float(line.split()[1]) for line in printed.splitlines() if line.startswith("perplexity "))
    assert perplexity < 4  # of 14 words that can be predicted
    assert f"elmo.checkpoint={folder / 'learned' / 'model'}" in printed
    metrics = [json.loads(line) for line in (folder / "learned" / "metrics.jsonl").read_text().splitlines()]
    found = [record["dev/perplexity"] for record in metrics]
    assert found[-1] < found[0] / 2 and perplexity == pytest.approx(min(found), abs=0.01)


def test_the_rate_is_halved_when_perplexity_rises_until_it_is_too_low(folder: Path) -> None:
    options = ["training.max_epochs=50", "training.learning_rate=30", "training.min_learning_rate=10"]
    assert train(folder, "rates", *options) == 0
    metrics = [json.loads(line) for line in (folder / "rates" / "metrics.jsonl").read_text().splitlines()]
    best, rate = -float("inf"), 30.0
    for record in metrics:
        rate = rate if record["dev/log_probability"] > best else rate / 2
        best = max(best, record["dev/log_probability"])
        assert record["train/learning_rate"] == rate
    assert rate < 10 and len(metrics) < 50


def test_a_resumed_training_equals_an_uninterrupted_one(folder: Path) -> None:
    assert train(folder, "pieces", "training.max_epochs=1") == 0
    assert train(folder, "pieces", "training.max_epochs=3") == 0
    assert_same(training.last_state(folder, "pieces"), training.last_state(folder, "whole"))
    assert training.weights(folder, "pieces") == training.weights(folder, "whole")


@pytest.mark.slow
def test_a_training_that_is_killed_within_an_epoch_is_resumed_exactly(folder: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "cove", "train", *arguments(folder, "killed")]
    options = ["training.validate_every_steps=3", "training.max_epochs=3"]
    assert train(folder, "steps", *options) == 0
    for stop in (signal.SIGKILL, signal.SIGTERM):
        with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            begun = [process.stderr.readline() for _ in range(5)]
            assert begun[0].startswith("run ") and "held-out perplexity" in begun[4]
            process.send_signal(stop)
            process.stderr.read()
    assert train(folder, "killed", *options) == 0
    assert_same(training.last_state(folder, "killed"), training.last_state(folder, "steps"))
    assert training.weights(folder, "killed") == training.weights(folder, "steps")


def test_another_text_or_size_is_another_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, "whole", "network.dropout=0.5") == 2
    assert "network.dropout: 0.2 there, 0.5 now" in capsys.readouterr().err


def test_layers_are_those_of_the_equations(cove: Cove) -> None:
    weights = {name: value.double().numpy() for name, value in cove.state_dict().items()}
    for text, layers in zip(TEXTS, cove.embed(TEXTS), strict=True):
        assert layers.shape == (3, len(text), 16)
        rows = {word: row for row, word in enumerate(cove.words.words)}
        x = [weights["vectors"][rows[w.lower()]] if w.lower() in rows else np.zeros(6) for w in text]
        if text:
            outputs, _ = numpy_translator.encode(x, weights, 2)
            np.testing.assert_allclose(layers[0, :, :6], x, atol=1e-6)
            assert not layers[0, :, 6:].any()  # narrower than the others: zeros at the end
            np.testing.assert_allclose(layers[1:], outputs, atol=1e-5)
    assert "river" not in cove.words.words and not cove.embed([("river",)])[0][0].any()


def test_all_words_of_the_vectors_are_known_and_not_only_those_of_the_training_text(cove: Cove) -> None:
    assert "moon" in cove.words.words and cove.embed([("moon",)])[0][0].any()


def test_layers_in_a_batch_are_those_of_each_sentence_alone(cove: Cove) -> None:
    together = cove(TEXTS)
    for row, text in enumerate(TEXTS):
        assert not together[:, row, len(text) :].any()
        if text:
            torch.testing.assert_close(together[:, row, : len(text)], cove([text])[:, 0])


def test_layers_kept_on_disk_are_the_encoder_s(folder: Path, cove: Cove) -> None:
    location = folder / "whole" / "model"
    cache = LayerCache.open_or_build(folder / "layers", location, TEXTS[:3], "float32")
    for text, layers in zip(TEXTS[:3], cove.embed(TEXTS[:3]), strict=True):
        np.testing.assert_allclose(cache.layers(text), layers, atol=1e-6)
    assert open_encoder(location).digest() == cove.digest()
    other = Cove(WordTable(cove.words.words[::-1], "lower"), cove.vectors, cove.encoder)
    assert other.digest() != cove.digest()


@pytest.mark.parametrize("options", [[], ["elmo.layers=top"], ["elmo.keep=no"], ["elmo.trained=true"]])
def test_a_task_uses_its_layers_in_elmo_s_place(options: list[str], folder: Path, tmp_path: Path) -> None:
    training.make_files(tmp_path)
    pairs = [f"elmo.checkpoint={folder / 'whole' / 'model'}", "elmo.placement=both", "training.max_epochs=1", *options]
    assert training.task(tmp_path, "run", *pairs) == 0
    model = tmp_path / "run" / "model"
    assert is_cove(model / "bilm")
    before, after = Cove.from_pretrained(folder / "whole" / "model"), Cove.from_pretrained(model / "bilm")
    is_same = all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    assert is_same == ("elmo.trained=true" not in options)
    output = tmp_path / "labelled.conll"
    assert cli.main(["predict", f"model={model}", f"input={tmp_path / 'dev.conll'}", f"output={output}"]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["vectors="], "vectors= is missing"),
        (["dev_source="], "dev_source= is missing"),
        (["training.max_tokens=1"], "no pair has at most training.max_tokens=1 words"),
        (["training.learning_rate=1e38", "training.clip_norm=null", "training.max_epochs=1"], "the training diverged"),
    ],
)
def test_what_cannot_be_trained_on_is_answered_in_one_sentence(
    options: list[str], said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "max_tokens" in options[0]:
        (folder / "long.en").write_text("a dog\n")
        (folder / "long.de").write_text("ein hund\n")
        options = [f"source=[{folder / 'long.en'}]", f"target=[{folder / 'long.de'}]", *options]
    assert train(folder, f"bad-{options[0]}".replace("/", "_"), *options) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no model of `elmo cove`"):
        Cove.from_pretrained(tmp_path)
    source = folder / "whole" / "model"
    for name in ("model.safetensors", "vocabulary.txt"):
        for file in source.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-1] + b"x")
        with pytest.raises(ConfigError, match=f"{name} is missing or not the file"):
            Cove.from_pretrained(tmp_path)


def test_the_command_names_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cove", "walk"]) == 2
    assert "elmo cove is followed by train or import" in capsys.readouterr().err
    assert cli.main(["cove", "import", "-h"]) == 0
    assert "weights=" in capsys.readouterr().out


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other
