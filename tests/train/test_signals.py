"""A signal to any process of a run: all ranks stop at the end of the same step, saved, and the run resumes later."""

import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests import processes
from tests.train import runs
from tests.train.wandb_files import exit_codes

pytestmark = pytest.mark.slow


def assert_stopped_well(process: processes.Process, run_dir: Path) -> int:
    """Exit code 75, a checkpoint of the very step that was the last; returns that step."""
    assert process.wait() == 75, process.output()
    step = runs.last_step(run_dir)
    assert f"stopped at step {step} of " in process.output()
    assert f"with a checkpoint of step {step}; to resume: elmo pretrain model." in process.output()
    assert "Traceback" not in process.output()
    assert runs.saved_steps(run_dir)[-1] == step == runs.newest(run_dir)["global_step"]
    return step


def test_a_process_stopped_by_every_signal_in_turn_ends_bitwise_like_the_uninterrupted_one(
    dataset: Path, long_run: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = runs.start(dataset, run_dir, *long_run)
    assert process.wait_until((run_dir / "run.json").exists)  # before training
    process.popen.send_signal(signal.SIGTERM)
    assert assert_stopped_well(process, run_dir) >= 1
    for after, signum, group in ((30, signal.SIGUSR1, False), (60, signal.SIGINT, True), (90, signal.SIGTERM, True)):
        process = runs.start(dataset, run_dir, *long_run)
        assert process.wait_until(lambda after=after: runs.last_step(run_dir) >= after)
        if group:  # as a terminal's Ctrl-C and Slurm do: loader processes and wandb's get it too
            process.signal_group(signum)
        else:
            process.popen.send_signal(signum)
        assert after <= assert_stopped_well(process, run_dir) < 120
    assert exit_codes(run_dir) == [0, 0, 0, 0]
    runs.run(dataset, run_dir, *long_run)
    assert list(runs.differences(runs.newest(uninterrupted), runs.newest(run_dir))) == []
    assert runs.curve(run_dir) == runs.curve(uninterrupted)


def test_threads_that_torch_gives_a_loader_process_leave_the_signal_to_the_parent_too(
    dataset: Path, tmp_path: Path
) -> None:
    """They are there before the process can say anything; with one thread, as in other tests, there are none."""
    settings = ["data.workers=1", "train.threads=2", "train.epochs=1000"]
    process = runs.start(dataset, tmp_path / "run", *settings, environment={"OMP_NUM_THREADS": "2"}, forked=False)
    assert process.wait_until(lambda: runs.last_step(tmp_path / "run") >= 5)
    (loader,) = psutil.Process(process.popen.pid).children()
    assert loader.num_threads() > 2
    process.signal_group(signal.SIGTERM)
    assert_stopped_well(process, tmp_path / "run")


def ranks_started_by(process: processes.Process) -> list[psutil.Process]:
    try:
        children = psutil.Process(process.popen.pid).children()
        return [child for child in children if "pipeline.cli" in child.cmdline()]
    except psutil.Error:
        return []


def test_a_signal_to_one_of_two_ranks_stops_both_and_they_resume_bitwise(dataset: Path, tmp_path: Path) -> None:
    steps, run_dir = ["train.max_steps=90", "train.epochs=9", "train.validate_every_steps=30"], tmp_path / "run"
    runs.run_ranks(dataset, tmp_path / "whole", 2, *steps)
    settings = [*steps, "train.devices=2"]
    process = runs.start(dataset, run_dir, *settings)
    assert process.wait_until(lambda: ranks_started_by(process))
    process.signal_group(signal.SIGTERM)  # rank 1 is still starting Python
    assert assert_stopped_well(process, run_dir) < 30
    process = runs.start(dataset, run_dir, *settings)
    assert process.wait_until(lambda: runs.last_step(run_dir) >= 30)
    ranks_started_by(process)[0].send_signal(signal.SIGTERM)
    assert 30 <= assert_stopped_well(process, run_dir) < 60
    process = runs.start(dataset, run_dir, *settings)
    assert process.wait_until(lambda: runs.last_step(run_dir) >= 60)
    process.popen.send_signal(signal.SIGUSR1)
    assert 60 <= assert_stopped_well(process, run_dir) < 90
    runs.run_ranks(dataset, run_dir, 2, *steps)
    assert list(runs.differences(runs.newest(tmp_path / "whole"), runs.newest(run_dir))) == []
    assert runs.curve(run_dir) == runs.curve(tmp_path / "whole")


def test_a_second_ctrl_c_ends_at_once_and_the_last_checkpoint_stays(dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = ["checkpoint.every_steps=2", "evaluate.lanes=1", "evaluate.window=1"]  # validation takes long
    process = runs.start(dataset, run_dir, *settings, "train.validate_every_steps=3", "train.epochs=100")
    assert process.wait_until(lambda: runs.last_step(run_dir) >= 3)
    process.signal_group(signal.SIGINT)
    time.sleep(0.2)  # or the two become one
    process.signal_group(signal.SIGINT)
    assert process.wait() == 130
    assert "interrupted; run the same command again to resume" in process.output()
    assert runs.saved_steps(run_dir) == [2]


def test_other_commands_end_at_once_on_a_signal(tmp_path: Path) -> None:
    process = processes.Process("prep", "input=-", f"output={tmp_path / 'out'}", log=tmp_path / "log")
    process.popen.send_signal(signal.SIGTERM)
    try:
        process.popen.wait(60)
    except subprocess.TimeoutExpired:
        process.kill_group()
        raise
