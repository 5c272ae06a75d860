"""A signal to any process of a run: all ranks stop after the same step with a checkpoint, and the run can resume."""

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
    """Check for exit code 75 and a checkpoint of the last step; return that step."""
    assert process.wait() == 75, process.output()
    step = runs.last_step(run_dir)
    assert f"stopped at step {step} of " in process.output()
    assert f"with a checkpoint of step {step}; to resume: elmo pretrain model." in process.output()
    assert "Traceback" not in process.output()
    assert runs.saved_steps(run_dir)[-1] == step == runs.newest(run_dir)["global_step"]
    return step


def test_a_run_stopped_by_every_signal_ends_bitwise_like_the_uninterrupted_one(
    dataset: Path, long_run: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = runs.start(dataset, run_dir, *long_run)
    assert process.wait_until((run_dir / "run.json").exists)  # before training starts
    process.popen.send_signal(signal.SIGTERM)
    assert assert_stopped_well(process, run_dir) >= 1
    for after, signum, group in ((30, signal.SIGUSR1, False), (60, signal.SIGINT, True), (90, signal.SIGTERM, True)):
        process = runs.start(dataset, run_dir, *long_run)
        assert process.wait_until(lambda after=after: runs.last_step(run_dir) >= after)
        if group:  # Ctrl-C in a terminal and Slurm signal all processes, also those of the loader and of wandb
            process.signal_group(signum)
        else:
            process.popen.send_signal(signum)
        assert after <= assert_stopped_well(process, run_dir) < 120
    assert exit_codes(run_dir) == [0, 0, 0, 0]
    runs.run(dataset, run_dir, *long_run)
    assert list(runs.differences(runs.newest(uninterrupted), runs.newest(run_dir))) == []
    assert runs.curve(run_dir) == runs.curve(uninterrupted)


def test_threads_of_torch_in_a_loader_process_do_not_end_it_on_a_signal(dataset: Path, tmp_path: Path) -> None:
    """The threads exist before the process runs any of our code. With one thread, as in other tests, there are none."""
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


def test_a_second_ctrl_c_ends_the_run_at_once_and_the_last_checkpoint_stays(dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    settings = ["checkpoint.every_steps=2", "evaluate.lanes=1", "evaluate.window=1"]  # so that validation takes long
    process = runs.start(dataset, run_dir, *settings, "train.validate_every_steps=3", "train.epochs=100")
    assert process.wait_until(lambda: runs.last_step(run_dir) >= 3)
    process.signal_group(signal.SIGINT)
    time.sleep(0.2)  # otherwise the two signals become one
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
