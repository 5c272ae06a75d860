"""The bytes that ranks send to each other, and the operations that a token needs."""

import json
from pathlib import Path

import pytest

from benchmarks import communication
from benchmarks.measure.rates import needed_flops
from pipeline.config.schema import PretrainConfig

ORIGINAL = PretrainConfig()


def test_the_bytes_of_a_step_grow_with_the_ranks_and_stay_below_dense_ones(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    sizes = ["data.vocab_size=2000", "softmax.num_samples=64", "--lanes-per-rank=1"]
    communication.main([f"data.path={dataset}", *sizes, f"--output={output}"])
    small, middle, large = json.loads(output.read_text())
    assert small["union_rows"] < middle["union_rows"] < large["union_rows"] <= 2000
    assert all(row["bytes"] < row["dense_ddp_bytes"] and row["softmax_ratio"] > 1 for row in (small, middle, large))


def test_the_model_of_the_paper_needs_the_operations_counted_by_hand() -> None:
    position, both = (needed_flops(ORIGINAL.model, ORIGINAL.softmax.num_samples, share, None) / 3 for share in (0, 1))
    word = both - position
    assert word / 1e6 == pytest.approx(17.6 + 33.5 + 2.1, rel=0.01)
    assert position / 1e6 == pytest.approx(4 * 37.75 + 16.8, rel=0.01)
