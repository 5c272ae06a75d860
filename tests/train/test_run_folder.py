"""A run's folder has one writer: who holds it, who may take it, and what a process does that has lost it."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.config.schema import ConfigError
from pipeline.train.cluster.watchdog import EXIT_HUNG, EXIT_TAKEN_OVER
from pipeline.train.outcome import CheckpointUnseen
from pipeline.train.run_dir import lock
from pipeline.train.run_dir.checkpoint import CheckpointFolder
from pipeline.train.run_dir.lock import TakenOver, choose_checkpoint, claim, is_claimed
from tests import processes


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    return monkeypatch


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    with claim(tmp_path):
        assert is_claimed(tmp_path)
        with pytest.raises(ConfigError, match="is being trained by another process"):
            claim(tmp_path)
    assert not is_claimed(tmp_path)


def test_a_later_start_of_the_same_job_takes_the_folder_from_the_earlier_one(
    tmp_path: Path, slurm: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    with claim(tmp_path) as before:
        folder.save({"global_step": 1}, None, 0.0, before.check)
        slurm.setenv("SLURM_RESTART_COUNT", "1")
        with claim(tmp_path) as after:
            assert after.is_current() and not before.is_current()
            with pytest.raises(TakenOver):
                folder.save({"global_step": 2}, None, 0.0, before.check)
            folder.save({"global_step": 3}, None, 0.0, after.check)
    assert [record.step for record in folder.records()] == [1, 3]


@pytest.mark.parametrize(("job", "restart"), [("8", "1"), ("7", "0")])
def test_another_job_or_the_same_start_is_refused(
    tmp_path: Path, slurm: pytest.MonkeyPatch, job: str, restart: str
) -> None:
    with claim(tmp_path):
        slurm.setenv("SLURM_JOB_ID", job)
        slurm.setenv("SLURM_RESTART_COUNT", restart)
        with pytest.raises(ConfigError):
            claim(tmp_path)


def test_a_missing_writer_file_does_not_take_the_folder_from_its_writer(tmp_path: Path) -> None:
    with claim(tmp_path) as writer:
        (tmp_path / "writer.json").unlink()
        assert writer.is_current()
        (tmp_path / "writer.json").write_text(json.dumps({"token": "of another"}))
        assert not writer.is_current()


def run_watchdog(arguments: str, body: str) -> "subprocess.CompletedProcess[str]":
    imports = "import time\nfrom pipeline.train.cluster.watchdog import Watchdog\n"
    code = f"{imports}with Watchdog({arguments}) as dog:\n    {body}\n"
    return subprocess.run([sys.executable, "-c", code], cwd=processes.ROOT, capture_output=True, text=True, timeout=120)


def test_the_watchdog_prints_where_a_process_hangs_and_ends_it() -> None:
    done = run_watchdog("None, 1.0", "dog.beat(); time.sleep(100)")
    assert done.returncode == EXIT_HUNG
    assert "HUNG: no step ended for" in done.stderr and 'File "<string>", line 4 in <module>' in done.stderr


def test_the_watchdog_calls_on_hang_but_does_not_wait_for_it() -> None:
    done = run_watchdog("None, 0.5, on_hang=lambda: print('hung', flush=True)", "dog.beat(); time.sleep(100)")
    assert done.returncode == EXIT_HUNG and done.stdout == "hung\n"
    done = run_watchdog("None, 0.5, on_hang=lambda: time.sleep(100)", "dog.beat(); time.sleep(100)")
    assert done.returncode == EXIT_HUNG


def test_the_watchdog_waits_longer_for_the_first_step() -> None:
    assert run_watchdog("60.0, 0.5", "time.sleep(3)").returncode == 0


def test_the_watchdog_ends_a_process_whose_run_was_taken_over() -> None:
    done = run_watchdog("None, None, lambda: False", "time.sleep(100)")
    assert done.returncode == EXIT_TAKEN_OVER and "TAKEN OVER" in done.stderr


def two_checkpoints(folder: Path) -> CheckpointFolder:
    checkpoints = CheckpointFolder(folder / "checkpoints")
    for step in (1, 2):
        checkpoints.save({"global_step": step}, None, 0.0)
    return checkpoints


@pytest.mark.usefixtures("slurm")
def test_all_ranks_resume_from_what_rank_0_saw_as_the_newest(tmp_path: Path) -> None:
    """An earlier start finishes a checkpoint after rank 0 has chosen."""
    checkpoints = two_checkpoints(tmp_path)
    with claim(tmp_path) as writer:
        first = choose_checkpoint(checkpoints, tmp_path, writer)
        checkpoints.save({"global_step": 3}, None, 0.0)
        assert choose_checkpoint(checkpoints, tmp_path, None) == first
    assert first is not None and first.step == 2


@pytest.mark.usefixtures("slurm")
def test_all_ranks_start_at_step_0_where_rank_0_does(tmp_path: Path) -> None:
    checkpoints = CheckpointFolder(tmp_path / "checkpoints")
    with claim(tmp_path) as writer:
        assert choose_checkpoint(checkpoints, tmp_path, writer) is None
        checkpoints.save({"global_step": 1}, None, 0.0)
        assert choose_checkpoint(checkpoints, tmp_path, None) is None


@pytest.mark.usefixtures("slurm")
def test_a_rank_waits_until_the_file_system_shows_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, hidden = two_checkpoints(tmp_path), tmp_path / "hidden"
    with claim(tmp_path) as writer:
        newest = choose_checkpoint(checkpoints, tmp_path, writer)
        assert newest is not None
        path = checkpoints.path(newest)
        path.rename(hidden)
        threading.Timer(0.5, hidden.rename, [path]).start()
        assert choose_checkpoint(checkpoints, tmp_path, None) == newest
        path.unlink()
        monkeypatch.setattr(lock, "_UNSEEN_SECONDS", 0.0)
        with pytest.raises(CheckpointUnseen, match="from which rank 0 resumes, is not whole on "):
            choose_checkpoint(checkpoints, tmp_path, None)


def test_outside_of_slurm_each_rank_takes_the_newest(tmp_path: Path) -> None:
    newest = choose_checkpoint(two_checkpoints(tmp_path), tmp_path, None)
    assert newest is not None and newest.step == 2
