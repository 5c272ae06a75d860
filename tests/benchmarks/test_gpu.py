"""The check of a GPU: its command runs to its end, and names what it needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.parts import PARTS, WAYS

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_check_prints_in_one_sentence_that_it_needs_one() -> None:
    done = run()
    assert done.returncode == 2 and not done.stdout
    assert done.stderr == "benchmarks.gpu needs an NVIDIA GPU; --dry runs its parts tiny on the CPU\n"


@pytest.mark.slow
def test_every_part_of_the_check_runs_dry_with_right_numbers(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    done = run("--dry", "--threads=1", f"--output={output}")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(output.read_text())
    assert all(result[part]["took_seconds"] > 0 for part in PARTS)
    assert [row["right"] for row in result["check"]["rows"]] == [True] * 4
    ways = {name.split(" ", 1)[1]: row for name, row in result["speed"].items() if name != "took_seconds"}
    assert ways.keys() == set(WAYS) and all(row["seconds"] > 0 for row in ways.values())


@pytest.mark.slow
def test_the_fast_recipe_is_checked_with_its_shared_rows(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    done = run("--dry", "--threads=1", "--parts=check,curves", f"--output={output}", "configs/fast.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(output.read_text())["check"]["rows"]
    assert [row["right"] for row in rows] == [True] * 4 and all("update" in row["worst"] for row in rows)
