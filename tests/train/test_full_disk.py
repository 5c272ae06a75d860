"""A full disk at a checkpoint: an error is logged, the run continues, and the last good checkpoint stays."""

import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.train import runs

SETTINGS = ["train.validate_every_steps=100", "checkpoint.every_steps=5", "train.epochs=100"]


def no_large_files() -> None:
    """Limit the files of the child to 300 kB, which is enough for metrics but not for a checkpoint."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))


@pytest.mark.slow
def test_a_failed_save_is_logged_and_the_last_good_checkpoint_stays(dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    runs.train_here(dataset, tmp_path / "whole", *SETTINGS, "train.max_steps=20")
    runs.train_here(dataset, run_dir, *SETTINGS, "train.max_steps=4")
    printed = runs.run(dataset, run_dir, *SETTINGS, "train.max_steps=12", code=1, preexec=no_large_files)
    assert [step for step in (5, 10, 12) if f"NO CHECKPOINT at step {step}" in printed] == [5, 10, 12]
    assert "the end could not be saved: the last checkpoint is of step 4 of 12" in printed
    assert "Traceback" not in printed
    assert runs.saved_steps(run_dir) == [4]
    assert not list((run_dir / "checkpoints").glob(".*.tmp"))
    assert runs.last_step(run_dir) == 12
    runs.train_here(dataset, run_dir, *SETTINGS, "train.max_steps=20")
    assert list(runs.differences(runs.newest(tmp_path / "whole"), runs.newest(run_dir))) == []


@pytest.mark.slow
def test_a_signal_at_a_step_that_could_not_be_saved_stops_all_ranks(dataset: Path, tmp_path: Path) -> None:
    settings = [*SETTINGS, "checkpoint.every_steps=1", "train.devices=2"]
    process = runs.start(dataset, tmp_path / "run", *settings, preexec=no_large_files)
    assert process.wait_until(lambda: "NO CHECKPOINT at step 3" in process.output())
    process.popen.send_signal(signal.SIGTERM)
    assert process.wait() == 75, process.output()
    assert "with a checkpoint of step 0" in process.output()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_run_continues_on_a_completely_full_disk(dataset: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        run_dir = disk / "run"
        runs.train_here(dataset, run_dir, *SETTINGS, "train.max_steps=4")
        process = runs.start(dataset, run_dir, *SETTINGS, "wandb.mode=offline", "data.workers=1")
        assert process.wait_until(lambda: runs.last_step(run_dir) >= 5)
        with (disk / "filler").open("wb", buffering=0) as filler:
            fill(filler)
            assert process.wait_until(lambda: "NO METRICS of step" in process.output())
            assert process.wait_until(lambda: process.output().count("NO CHECKPOINT at step") >= 2)
        (disk / "filler").unlink()
        seen = runs.last_step(run_dir)
        assert process.wait_until(lambda: runs.last_step(run_dir) > seen + 5)
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 75, process.output()
        assert runs.saved_steps(run_dir)[-1] == runs.last_step(run_dir)
        lines = (run_dir / "metrics.jsonl").read_text().splitlines()
        whole = [line for line in lines if line.startswith("{") and line.endswith("}")]
        assert len(lines) - len(whole) <= 1  # one line was cut short, and no other is lost
    finally:
        subprocess.run(["umount", "-l", str(disk)])
        shutil.rmtree(disk, ignore_errors=True)


def fill(file: object) -> None:
    for size in (1 << 20, 1 << 12, 1):
        try:
            while True:
                file.write(b"\0" * size)  # type: ignore[attr-defined]
        except OSError:
            continue
