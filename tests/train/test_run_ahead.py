"""In training the CPU runs ahead of a GPU: no step waits for its own result, and a step has few launches."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT

SMALL = [
    "model.filters=[[1,4],[2,4],[3,8],[4,8],[5,16],[6,16],[7,16]]", "model.lstm_dim=16", "model.projection_dim=8",
    "data.lanes=4", "data.window=3", "softmax.num_samples=16",
]  # fmt: skip
# With fewer filters, bf16 changes signs.
ALL_FILTERS = "model.filters=[[1,32],[2,32],[3,64],[4,128],[5,256],[6,512],[7,1024]]"
WAYS = {
    "faithful": ["configs/original.yaml"],
    "fast": ["configs/fast.yaml", "data.cold_start_share=0.3"],
    "adam": ["configs/fast.yaml", "optimizer.name=adam-adagrad", "data.cold_start_share=0.3"],
    "bilm-tf": ["configs/original.yaml", "softmax.candidates=per_direction"],
    "full": ["configs/original.yaml", "softmax.kind=full"],
    "bf16": ["configs/original.yaml", "train.precision=bf16-mixed", ALL_FILTERS],
    "norms": ["configs/original.yaml", "train.norms_every_steps=2"],
}
pytestmark = pytest.mark.xdist_group("paper GPU")  # so that the fixture below is made only once


@pytest.fixture(scope="module")
def found(dataset: Path) -> dict[str, dict[str, Any]]:
    """Train three steps on a fake GPU with each list of settings, in one process of tests/train/paper_gpu.py."""
    settings = [json.dumps([*way[:1], *SMALL, *way[1:]]) for way in WAYS.values()]
    command = [sys.executable, "-m", "tests.train.paper_gpu", str(dataset), *settings]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return dict(zip(WAYS, map(json.loads, run.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("way", [way for way in WAYS if way != "norms"])
def test_a_step_learns_as_on_a_cpu_and_waits_only_for_the_previous_result(
    found: dict[str, dict[str, Any]], way: str
) -> None:
    steps, rounding = found[way], 5e-3 if way == "bf16" else 1e-5
    assert steps["losses"] == pytest.approx(steps["expected"], rel=rounding) and len(steps["losses"]) == 3
    assert steps["worst_weight"] < 30 * rounding
    assert way != "bf16" or steps["worst_weight"] > 1e-5, "bfloat16 was not used"
    assert steps["waits"] == {"finite_check.py:read by tolist": 3}
    assert steps["results"] == [[0, 1], [1, 2], [2, 3]]
    assert 100 < steps["launches"] < (600 if way == "fast" else 400) and steps["recorded"] == 2 * 2 * 3 * 4


def test_a_step_whose_norms_are_logged_waits_for_its_own_result(found: dict[str, dict[str, Any]]) -> None:
    assert found["norms"]["results"] == [[0, 1], [1, 1], [2, 3]]
