"""`elmo task` and `elmo predict`: from files to labels, resumed, with ELMo and without."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline import cli
from pipeline.model.formats.pretrained import save_pretrained
from pipeline.tasks.examples.columns import read_columns
from pipeline.tasks.metrics.spans import EntityF1
from pipeline.tasks.run import subset
from pipeline.tasks.task import Task
from pipeline.tasks.training.order import TrainingOrder
from tests.model import tiny
from tests.tasks.training import arguments, last_state, make_files, task, weights, with_elmo


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the files, and train two runs: elmo (3 epochs) and baseline (2 epochs)."""
    folder = make_files(tmp_path_factory.mktemp("tasks"))
    assert task(folder, "elmo", *with_elmo(folder), "training.max_epochs=3") == 0
    assert task(folder, "baseline", "training.max_epochs=2") == 0
    return folder


def test_a_task_is_learned_and_its_scores_and_mix_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert task(folder, "learned", *with_elmo(folder), "training.max_epochs=20", "training.learning_rate=0.03") == 0
    printed = capsys.readouterr().out
    (f1,) = (float(line.split()[1]) for line in printed.splitlines() if line.startswith("f1 "))
    assert f1 > 90
    assert "ELMo at the input: layer 0 " in printed and "gamma" in printed
    assert f"elmo predict model={folder / 'learned' / 'model'}" in printed


def test_predict_writes_the_predictions_that_the_training_scored(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = folder / "labelled.conll"
    model = folder / "elmo" / "model"
    assert cli.main(["predict", f"model={model}", f"input={folder / 'dev.conll'}", f"output={output}"]) == 0
    scored = EntityF1()
    for sentence, predicted in zip(
        read_columns(folder / "dev.conll", entities=True), read_columns(output, entities=True), strict=True
    ):
        scored.update(sentence.tags, predicted.tags)
    saved = json.loads((model / "config.json").read_text())["scores"]["dev"]["f1"]
    assert scored.result()["f1"] == pytest.approx(saved)
    assert f"f1 {saved:.2f} by the labels of the input" in capsys.readouterr().out


def test_predict_labels_text_without_labels(folder: Path) -> None:
    text, output = folder / "text.conll", folder / "text.labelled"
    text.write_text("New\nLima\n\nZoë\nsees\n")
    assert cli.main(["predict", f"model={folder / 'baseline' / 'model'}", f"input={text}", f"output={output}"]) == 0
    assert [line.split()[0] for line in output.read_text().split("\n") if line] == ["New", "Lima", "Zoë", "sees"]
    assert all(len(line.split()) == 2 for line in output.read_text().split("\n") if line)


@pytest.mark.parametrize("elmo", [True, False])
def test_a_resumed_training_equals_an_uninterrupted_one(folder: Path, elmo: bool) -> None:
    options = with_elmo(folder) if elmo else []
    run, epochs = ("elmo", 3) if elmo else ("baseline", 2)
    assert task(folder, f"begun-{elmo}", *options, "training.max_epochs=1") == 0
    (folder / f"begun-{elmo}").rename(folder / f"pieces-{elmo}")  # a folder can be moved between starts
    assert task(folder, f"pieces-{elmo}", *options, f"training.max_epochs={epochs}") == 0
    pieces, whole = last_state(folder, f"pieces-{elmo}"), last_state(folder, run)
    assert pieces["state"]["step"] == 5 * epochs
    assert_equal(pieces, whole)
    assert weights(folder, f"pieces-{elmo}") == weights(folder, run)


@pytest.mark.slow
def test_a_training_stopped_within_an_epoch_resumes_exactly(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The average of the weights is resumed too."""
    options = ["training.ema=0.9", "training.optimizer=adadelta", "training.max_epochs=6"]
    assert task(folder, "whole", *options) == 0
    command = [sys.executable, "-m", "pipeline.cli", "task", "ner", *arguments(folder, "stopped"), *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        begun = [process.stderr.readline() for _ in range(4)]
        assert begun[0] == f"run      {folder / 'stopped'}  (new)\n" and "5 steps an epoch" in begun[1]
        assert re.fullmatch(r"model    [\d,]+ parameters that learn\n", begun[2]) and "30 steps, 6 epochs" in begun[3]
        assert "step 5 of 30" in process.stderr.readline()  # the end of the first epoch
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode in (75, 0)  # 0 if the signal came after the last step
    capfd.readouterr()
    assert task(folder, "stopped", *options) == 0
    assert process.returncode == 0 or "(resumed at step " in capfd.readouterr().err
    assert_equal(last_state(folder, "stopped"), last_state(folder, "whole"))
    assert weights(folder, "stopped") == weights(folder, "whole")


def assert_equal(one: Any, other: Any) -> None:
    """Check that nested dicts and lists hold bitwise the same tensors, and the same values."""
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_without_a_place_for_elmo_the_run_is_the_baseline(folder: Path) -> None:
    assert task(folder, "none", *with_elmo(folder, placement="none"), "training.max_epochs=2") == 0
    assert weights(folder, "none") == weights(folder, "baseline")


def test_training_on_cached_layers_equals_training_on_layers_of_the_bilm(folder: Path) -> None:
    assert task(folder, "computed", *with_elmo(folder, keep="no"), "training.max_epochs=3") == 0
    kept, computed = (load_file(folder / run / "model" / "model.safetensors") for run in ("elmo", "computed"))
    assert kept.keys() == computed.keys()
    for name, value in kept.items():
        torch.testing.assert_close(value, computed[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("trained", [True, False])
def test_the_bilm_learns_only_if_it_is_trained_with_the_task(folder: Path, trained: bool) -> None:
    run = f"trained-{trained}"
    assert task(folder, run, *with_elmo(folder, trained=trained), "training.max_epochs=1") == 0
    before, after = (load_file(path / "model.safetensors") for path in (folder / "bilm", folder / run / "model/bilm"))
    assert all(torch.equal(value, after[name]) for name, value in before.items()) is not trained


def test_the_average_of_a_trained_bilm_is_saved_and_resumed(folder: Path) -> None:
    options = [*with_elmo(folder, trained=True), "training.ema=0.5"]
    assert task(folder, "average", *options, "training.max_epochs=1") == 0
    content = last_state(folder, "average")
    names = [name for name in content["weights"] if content["weights"][name].is_floating_point()]
    now, saved = content["weights"], load_file(folder / "average" / "model" / "bilm" / "model.safetensors")
    assert any(name.startswith("bilm.") for name in names) and len(content["average"]) > 20
    assert not any(torch.equal(now[name], saved[name[10:]]) for name in names if name[10:] in saved)
    assert task(folder, "average", *options, "training.max_epochs=2") == 0
    assert task(folder, "average-whole", *options, "training.max_epochs=2") == 0
    assert_equal(last_state(folder, "average"), last_state(folder, "average-whole"))


def test_a_training_that_diverges_ends_and_keeps_what_was_saved(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["training.optimizer=sgd", "training.learning_rate=1e38", "training.clip_norm=null"]
    assert task(folder, "diverges", *options) == 2
    error = capsys.readouterr().err
    assert "is no finite number at step" in error and "training.learning_rate=1e+38" in error
    assert not (folder / "diverges" / "model").exists() and not (folder / "diverges" / "last.ckpt").exists()


@pytest.mark.slow
def test_two_processes_train_as_one(folder: Path) -> None:
    options = ["training.max_epochs=1", "network.dropout=0.0", "training.learning_rate=0.01"]
    assert task(folder, "one", *options) == 0
    command = [sys.executable, "-m", "pipeline.cli", "task", "ner", *arguments(folder, "two"), *options]
    subprocess.run([*command, "training.devices=2"], check=True, capture_output=True, timeout=120)
    one, two = (load_file(folder / run / "model" / "model.safetensors") for run in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-3, atol=1e-4)


def test_the_folder_of_a_task_can_be_loaded_in_python(folder: Path) -> None:
    task_ = Task.from_pretrained(folder / "elmo" / "model")
    examples = read_columns(folder / "dev.conll", entities=True)
    assert task_.predict(examples, batch_size=1) == task_.predict(examples, batch_size=5)
    assert task_.elmo is not None and task_.name == "ner"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["training.learning_rate=0.5"], "holds a training with other settings"),
        (["elmo.layers=7", "run.dir=other"], "elmo.layers='7' must be mix, top, or the number of a layer from 0 to 2"),
        (["vectors=missing.txt", "run.dir=other"], "missing.txt does not exist"),
        (["dev=train.conll", "format.tag_column=5", "run.dir=other"], "column 5 is asked for"),
        (["training.share=2"], "training.share=2.0 must be above 0 and at most 1"),
        (["elmo.checkpoint=nothing", "run.dir=other"], "nothing"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(
    options: list[str],
    message: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # some of these runs make their folder
    assert task(folder, "elmo", *with_elmo(folder), *options) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1 and "Traceback" not in error


def test_a_damaged_model_folder_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    model = tmp_path / "model"
    shutil.copytree(folder / "baseline" / "model", model)
    data = bytearray((model / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (model / "model.safetensors").write_bytes(data)
    arguments = [f"model={model}", f"input={folder / 'dev.conll'}", f"output={tmp_path / 'out'}"]
    assert cli.main(["predict", *arguments]) == 2
    assert "is missing or not the file that config.json was written with" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_is_refused_and_kept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert task(folder, "torn", "training.max_epochs=1") == 0
    path = folder / "torn" / "last.ckpt"
    path.write_bytes(damaged := path.read_bytes()[:-100])
    assert task(folder, "torn", "training.max_epochs=2") == 2
    assert "last.ckpt is damaged" in capsys.readouterr().err and path.read_bytes() == damaged


def test_each_epoch_has_every_example_once_in_batches_of_similar_length() -> None:
    lengths = np.random.default_rng(3).integers(1, 60, 1000).tolist()
    order = TrainingOrder(lengths, 16, seed=5)
    for epoch in (0, 7):
        steps = [order.batch(epoch * order.steps_an_epoch + place) for place in range(order.steps_an_epoch)]
        assert sorted(np.concatenate(steps).tolist()) == list(range(1000))
        assert np.mean([np.ptp([lengths[number] for number in step]) for step in steps]) < 10
    assert order.batch(3).tolist() != order.batch(3 + order.steps_an_epoch).tolist()
    assert TrainingOrder(lengths, 16, seed=5).batch(70).tolist() == order.batch(70).tolist()


def test_each_step_is_divided_over_the_ranks() -> None:
    order = TrainingOrder([3] * 41, 8, seed=1)
    for step in range(order.steps_an_epoch):
        shares = [order.of_rank(step, rank, 3).tolist() for rank in range(3)]
        assert sorted(np.concatenate(shares).tolist()) == sorted(order.batch(step).tolist())


def test_a_smaller_share_of_the_data_is_part_of_a_larger_one() -> None:
    examples = list(range(1000))
    (small, others), (large, _) = (subset(examples, share, seed=4) for share in (0.01, 0.1))
    assert len(small) == 10 and set(small) < set(large) and sorted(small + others) == examples
    assert subset(examples, 1.0, 4) == (examples, []) and subset(examples, 0.01, seed=5)[0] != small


def test_predict_scores_the_pairs_that_have_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SNLI's own files have pairs labelled -, on which annotators did not agree."""
    make_files(tmp_path)
    pairs = [("entailment", "It rains"), ("-", "It snows"), ("neutral", "It is hot"), ("contradiction", "It is dry")]
    lines = [json.dumps({"gold_label": a, "sentence1": "It pours", "sentence2": b}) for a, b in pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    data, vectors = tmp_path / "pairs.jsonl", tmp_path / "glove.txt"
    vectors.write_text("it 0.5 -1 0.25\nrains 1 0.5 0.125\n")
    options = ["network.hidden=4", "words.case=lower", f"vectors={vectors}", "training.max_epochs=1"]
    options += ["training.accelerator=cpu", "training.threads=1", "wandb.mode=disabled"]
    assert cli.main(["task", "snli", f"train={data}", f"dev={data}", f"run.dir={tmp_path / 'run'}", *options]) == 0
    model, output = tmp_path / "run" / "model", tmp_path / "labelled.jsonl"
    capsys.readouterr()
    assert cli.main(["predict", f"model={model}", f"input={data}", f"output={output}"]) == 0
    dev = json.loads((model / "config.json").read_text())["scores"]["dev"]["accuracy"]
    assert f"4 examples, accuracy {dev:.2f} by the labels of the input" in capsys.readouterr().out


def test_a_run_is_not_resumed_on_another_bilm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_files(tmp_path)
    assert task(tmp_path, "run", *with_elmo(tmp_path), "training.max_epochs=1") == 0
    save_pretrained(tmp_path / "bilm", tiny.bilm(tiny.config(), seed=9).core(), overwrite=True)
    capsys.readouterr()
    assert task(tmp_path, "run", *with_elmo(tmp_path), "training.max_epochs=2") == 2
    assert "content of elmo.checkpoint" in capsys.readouterr().err
