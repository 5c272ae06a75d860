"""`elmo pretrain` on a folder that holds a run: it resumes and prints the step, or refuses and names the reason."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.config.schema import ConfigError
from tests import corpora
from tests.train import runs

SHORT = ["train.validate_every_steps=4", "checkpoint.every_steps=4"]


@pytest.fixture(scope="module")
def stopped_at_six(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("resume") / "run"
    runs.train_here(dataset, run_dir, "train.max_steps=6", *SHORT)
    return run_dir


def test_a_run_resumes_and_prints_the_step_or_that_it_is_finished(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    for steps, printed in ((6, "(new)"), (10, "resumed at step 6"), (10, "nothing to do")):
        outcome = runs.train_here(dataset, run_dir, f"train.max_steps={steps}", *SHORT)
        assert printed in capfd.readouterr().err
        assert (outcome.step, outcome.total_steps, outcome.stopped) == (steps, steps, False)
    assert list(runs.losses(run_dir)) == list(range(1, 11))


@pytest.mark.parametrize(
    ("kind", "optimizer", "lanes_at_once"),
    [
        ("sampled", "adagrad", None),
        ("sampled", "adam", 4),
        ("full", "adagrad", 4),
        ("full", "adam", None),
        ("sampled", "muon", None),
        ("sampled", "muon softmax.affixes=true data.cold_start_share=0.3", 4),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one_bitwise(
    dataset: Path, tmp_path: Path, kind: str, optimizer: str, lanes_at_once: int | None
) -> None:
    settings = [*SHORT, *f"optimizer.name={optimizer}".split()]
    settings += [f"softmax.kind={kind}", "optimizer.lr=0.01", "train.epochs=9"]
    settings += [f"train.lanes_at_once={lanes_at_once}"] if lanes_at_once else []
    runs.train_here(dataset, tmp_path / "whole", "train.max_steps=60", *settings)
    for steps in (3, 4, 55, 57, 60):  # an epoch is 55 steps
        runs.train_here(dataset, tmp_path / "pieces", f"train.max_steps={steps}", *settings)
    whole, pieces = (runs.newest(tmp_path / name) for name in ("whole", "pieces"))
    assert list(runs.differences(whole, pieces)) == []
    assert runs.losses(tmp_path / "whole") == runs.losses(tmp_path / "pieces")


REFUSED = {
    "model.lstm_dim": "48", "model.dropout": "0.2", "data.lanes": "4", "data.window": "5", "run.seed": "2",
    "data.vocab_size": "100", "optimizer.name": "adam", "softmax.num_samples": "32",
    "softmax.affixes": "true", "softmax.kind": "full", "softmax.candidates": "per_direction", "softmax.init": "unigram",
    "data.order": "per_direction", "model.filters": "[[1,8],[2,16],[4,16]]",
}  # fmt: skip


@pytest.mark.parametrize("key", REFUSED)
def test_a_change_that_makes_it_another_run_is_refused_with_its_key(
    dataset: Path, stopped_at_six: Path, key: str
) -> None:
    with pytest.raises(ConfigError) as error:
        runs.train_here(dataset, stopped_at_six, *SHORT, f"{key}={REFUSED[key]}")
    assert f"{key}: " in str(error.value) and "there" in str(error.value) and "now" in str(error.value)
    assert [name for name in REFUSED if name in str(error.value)] == [key]
    assert runs.saved_steps(stopped_at_six) == [4, 6]


def test_another_dataset_is_refused(dataset: Path, stopped_at_six: Path, tmp_path: Path) -> None:
    text = corpora.write_text(tmp_path / "other.txt", corpora.zipf_sentences(365, seed=3))
    runs.prepare([str(text)], str(tmp_path / "other"), workers=1, show_progress=False)
    with pytest.raises(ConfigError, match=r"dataset: .* there, .* now"):
        runs.train_here(tmp_path / "other", stopped_at_six, *SHORT)


def test_settings_that_may_change_can_be_changed(dataset: Path, stopped_at_six: Path) -> None:
    changes = ["optimizer.lr=0.1", "optimizer.schedule=linear", "train.precision=bf16-mixed", "data.workers=1",
               "checkpoint.keep_last=3", "train.log_every_steps=2", "evaluate.lanes=3"]  # fmt: skip
    outcome = runs.train_here(dataset, stopped_at_six, *SHORT, *changes, "train.max_steps=8")
    assert outcome.step == 8


@pytest.mark.slow
def test_the_command_refuses_with_exit_code_2_and_one_sentence(
    dataset: Path, stopped_at_six: Path, tmp_path: Path
) -> None:
    printed = runs.run(dataset, stopped_at_six, *SHORT, "run.seed=7", code=2)
    assert printed.startswith("elmo pretrain: run.dir=") and "run.seed: 1 there, 7 now" in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.slow
def test_a_second_process_on_a_run_is_refused_and_the_first_continues(dataset: Path, tmp_path: Path) -> None:
    settings = [*SHORT, "train.epochs=100000"]
    first = runs.start(dataset, tmp_path / "run", *settings)
    try:
        assert first.wait_until(lambda: runs.last_step(tmp_path / "run") >= 2)
        printed = runs.run(dataset, tmp_path / "run", *settings, code=2)
        assert printed.startswith("elmo pretrain:") and "being trained by another process" in printed
        seen = runs.last_step(tmp_path / "run")
        assert first.wait_until(lambda: runs.last_step(tmp_path / "run") > seen) and first.popen.poll() is None
    finally:
        first.kill_group()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["data.lanes"] == 8


def test_a_run_of_a_version_with_other_candidates_is_refused_in_one_sentence(
    dataset: Path, stopped_at_six: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    shutil.copytree(stopped_at_six, run_dir)
    facts = json.loads((run_dir / "run.json").read_text())
    del facts["identity"]["version"]  # as version 1 wrote it
    (run_dir / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=r"holds a run of version 1, but this program trains runs of version 2"):
        runs.train_here(dataset, run_dir, *SHORT, "train.max_steps=8")
