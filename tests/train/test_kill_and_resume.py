"""A run killed with kill -9 at any moment and started again equals a run that was never killed."""

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import processes
from tests.train import runs

KILLS_PER_RUN = int(os.environ.get("ELMO_TEST_KILLS", "21")) // 3  # set it higher for a longer trial
STEPS = 120


def checkpoint_being_written(run_dir: Path) -> bool:
    return any((run_dir / "checkpoints").glob(".*.tmp"))


def kill_once(process: processes.Process, run_dir: Path, kind: str, step: int, chance: random.Random) -> bool:
    """Kill the process group at a chosen point; return whether that left a half-written checkpoint."""
    if kind == "validation":
        step = -(-step // 10) * 10  # validation follows the metrics of these steps
    if not process.wait_until(lambda: runs.last_step(run_dir) >= step):
        return False
    if kind == "checkpoint":
        process.wait_until(lambda: checkpoint_being_written(run_dir))
    elif kind == "anywhere":
        time.sleep(chance.random() * 0.1)
    process.kill_group()
    return checkpoint_being_written(run_dir)


def kill_repeatedly(dataset: Path, run_dir: Path, settings: list[str], seed: int) -> tuple[int, int]:
    """Run and kill repeatedly, then to the end; return (kills, half-written checkpoints left by kills)."""
    chance = random.Random(seed)
    kinds = ["checkpoint", "validation", "anywhere"]
    kills = torn = 0
    for number in range(KILLS_PER_RUN):
        process = runs.start(dataset, run_dir, *settings)
        start = 1 + STEPS * number // (KILLS_PER_RUN + 1)
        step = chance.randint(start, start + STEPS // (KILLS_PER_RUN + 1))
        torn += kill_once(process, run_dir, kinds[(seed + number) % 3], step, chance)
        if process.popen.returncode == -9:
            kills += 1
        else:
            assert process.wait() == 0, process.output()
    runs.run(dataset, run_dir, *settings)
    return kills, torn


@pytest.fixture(scope="module")
def killed(dataset: Path, long_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, int, int]]:
    folder = tmp_path_factory.mktemp("killed")

    def one(seed: int) -> tuple[Path, int, int]:
        run_dir = folder / f"run-{seed}"
        settings = long_run if seed == 0 else [*long_run, "wandb.mode=disabled"]  # wandb takes seconds to start
        return run_dir, *kill_repeatedly(dataset, run_dir, settings, seed)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(3)))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_killed_repeatedly_ends_bitwise_like_the_uninterrupted_one(
    killed: list[tuple[Path, int, int]], uninterrupted: Path
) -> None:
    expected = runs.newest(uninterrupted)
    assert expected["global_step"] == STEPS
    for run_dir, kills, torn in killed:
        print(f"{run_dir.name}: {kills} kills, {torn} of them left a half-written checkpoint")
        assert list(runs.differences(expected, runs.newest(run_dir))) == []
        assert runs.curve(run_dir) == runs.curve(uninterrupted)
    assert sum(kills for _, kills, _ in killed) >= 3 * KILLS_PER_RUN - 1
    assert sum(torn for _, _, torn in killed) >= 1


@pytest.mark.slow
def test_leftovers_of_killed_writes_are_removed(killed: list[tuple[Path, int, int]]) -> None:
    for run_dir, _, _ in killed:
        files = {path.name for path in (run_dir / "checkpoints").iterdir()}
        steps = runs.saved_steps(run_dir)
        assert steps[-2:] == [STEPS - 5, STEPS]
        assert files == {f"step-{step:08d}{ending}" for step in steps for ending in (".ckpt", ".json")}


@pytest.mark.slow
def test_a_run_can_be_restarted_at_once_when_only_its_main_process_was_killed(dataset: Path, tmp_path: Path) -> None:
    settings = ["data.workers=2", "train.max_steps=100000", "train.epochs=100000", "checkpoint.every_steps=5"]
    process = runs.start(dataset, tmp_path / "run", *settings)
    try:
        assert process.wait_until(lambda: runs.last_step(tmp_path / "run") >= 6)
        process.popen.kill()
        process.popen.wait()
        printed = runs.run(dataset, tmp_path / "run", *settings[:1], "train.max_steps=8")
        assert "resumed at step" in printed or "nothing to do" in printed
    finally:
        process.signal_group(9) if process.popen.poll() is None else None
