"""In training the CPU runs ahead of a GPU: no step waits for it, and launches are few enough to keep ahead."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["model.lstm_dim=16", "model.projection_dim=8", "data.lanes=4", "data.window=3", "softmax.num_samples=16"]
WAYS = {
    "faithful": ["configs/original.yaml"],
    "fast": ["configs/fast.yaml", "data.cold_start_share=0.3"],
    "bilm-tf": ["configs/original.yaml", "softmax.candidates=per_direction"],
    "full": ["configs/original.yaml", "softmax.kind=full"],
    "bf16": ["configs/original.yaml", "train.precision=bf16-mixed"],
}


def on_paper(dataset: Path, *settings: str) -> dict[str, Any]:
    """Of three steps on a GPU that is none: see paper_gpu."""
    command = [sys.executable, "-m", "tests.train.paper_gpu", str(dataset), *settings]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout)  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", WAYS)
def test_a_step_learns_as_on_a_cpu_and_waits_only_for_the_result_of_the_one_before(dataset: Path, way: str) -> None:
    found: dict[str, Any] = on_paper(dataset, *WAYS[way][:1], *SMALL, *WAYS[way][1:])
    rounding = 5e-3 if way == "bf16" else 1e-5
    assert found["losses"] == pytest.approx(found["expected"], rel=rounding) and len(found["losses"]) == 3
    assert found["worst_weight"] < 30 * rounding
    assert found["waits"] == {"finite_check.py:read by tolist": 3}
    assert found["results"] == [[0, 1], [1, 2], [2, 3]]
    assert 100 < found["launches"] < 400 and found["recorded"] == 2 * 2 * 3 * 4


def test_a_step_whose_norms_are_looked_at_waits_for_its_own_result(dataset: Path) -> None:
    found = on_paper(dataset, "configs/original.yaml", *SMALL, "train.norms_every_steps=2")
    assert found["results"] == [[0, 1], [1, 1], [2, 3]]
