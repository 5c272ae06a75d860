"""The table's gradient is never dense: what a step allocates, reads and sends does not grow with the vocabulary."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes
from tests.train import runs
from tests.train.traffic import ROW_OPERATIONS, measure_step

SMALL, LARGE = 10_000, 800_000


@pytest.mark.parametrize("change", ["optimizer.name=adagrad", "optimizer.name=adam", "softmax.affixes=true"])
def test_a_steps_work_does_not_grow_with_the_vocabulary(dataset: Path, tmp_path: Path, change: str) -> None:
    settings = [change, "train.max_steps=4", "train.validate_every_steps=100"]
    small, large = (measure_step(runs.config_of(dataset, tmp_path, *settings), size) for size in (SMALL, LARGE))
    assert small.made > 100_000
    assert abs(large.made / small.made - 1) < 0.05
    assert large.on_table <= ROW_OPERATIONS, f"work on the whole table: {large.on_table - ROW_OPERATIONS}"


def test_the_measurement_detects_a_dense_gradient(dataset: Path, tmp_path: Path) -> None:
    config = runs.config_of(dataset, tmp_path, "softmax.kind=full", "train.max_steps=4")
    small, large = measure_step(config, SMALL), measure_step(config, 4 * SMALL)
    assert large.made > 2 * small.made and not large.on_table <= ROW_OPERATIONS


@pytest.mark.slow
def test_the_bytes_sent_between_ranks_do_not_grow_with_the_vocabulary(dataset: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "NODE_RANK": "0"}
    command = [sys.executable, "-m", "tests.train.traffic", str(dataset), str(SMALL), str(LARGE)]
    ranks = [
        subprocess.Popen(
            command, cwd=processes.ROOT, env=processes.clean_environment() | launcher | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        printed = [rank.communicate(timeout=processes.WAIT_SECONDS)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for output in printed:
        small, large = json.loads(output.splitlines()[-1])
        table_bytes = SMALL * 16 * 4
        assert small["rows"] > 1000 and small["dense"] > 1000
        assert large["dense"] == small["dense"]
        assert large["rows"] < 1.1 * small["rows"] < table_bytes
    assert os.environ.get("WORLD_SIZE") is None
