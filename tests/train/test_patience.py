"""A run that stops improving ends early, keeps its best checkpoint, and resumes only with more patience."""

import shutil
from pathlib import Path

import pytest

from pipeline.apply.watch.status import read_status
from pipeline.train.run_dir.checkpoint import CheckpointFolder
from pipeline.train.run_dir.records import read_facts
from tests.train import runs

# At this rate the loss first falls and then jumps.
HASTY = ["optimizer.lr=1.5", "train.epochs=100", "train.validate_every_steps=5", "checkpoint.every_steps=1000",
         "train.log_every_steps=5", "data.vocab_size=300", "model.dropout=0"]  # fmt: skip
PATIENT = [*HASTY, "train.patience=2"]


def held_out(run_dir: Path) -> dict[int, float]:
    return {
        step: values["val/perplexity"] for step, values in runs.curve(run_dir).items() if "val/perplexity" in values
    }


@pytest.fixture(scope="module")
def ended(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("patient") / "run"
    outcome = runs.train_here(dataset, run_dir, *PATIENT)
    assert not outcome.stopped and outcome.saved_step == outcome.step < outcome.total_steps
    return run_dir


def test_a_run_ends_after_the_given_number_of_validations_without_improvement(ended: Path) -> None:
    curve = held_out(ended)
    best = min(curve, key=lambda step: curve[step])
    assert max(curve) == best + 2 * 5
    assert read_facts(ended / "end.json")["how"] == "finished" and "early" in read_facts(ended / "end.json")["text"]
    assert read_status(ended).state == "finished"


def test_the_best_checkpoint_is_kept_even_if_no_checkpoint_was_due(ended: Path) -> None:
    curve, folder = held_out(ended), CheckpointFolder(ended / "checkpoints")
    best = folder.best()
    assert best is not None and best.val_perplexity == min(curve.values()) == curve[best.step]
    assert runs.saved_steps(ended)[-1] == max(curve)


def test_a_restarted_run_trains_on_only_with_more_patience(
    dataset: Path, ended: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    last, ended = max(held_out(ended)), shutil.copytree(ended, tmp_path / "run")
    (ended / "end.json").unlink()  # killed after its last checkpoint
    outcome = runs.train_here(dataset, ended, *PATIENT)
    assert (outcome.step, outcome.stopped) == (last, False) and "nothing to do" in capfd.readouterr().err
    assert max(held_out(ended)) == last and read_facts(ended / "end.json")["how"] == "finished"
    outcome = runs.train_here(dataset, ended, *HASTY, "train.patience=3")
    assert outcome.step >= last + 5


def test_patience_counts_validations_across_restarts(dataset: Path, tmp_path: Path, ended: Path) -> None:
    best = max(held_out(ended)) - 10
    for steps in (best + 7, 100_000):
        runs.train_here(dataset, tmp_path / "run", *PATIENT, f"train.max_steps={steps}")
    assert max(held_out(tmp_path / "run")) == best + 10
