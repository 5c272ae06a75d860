"""What ranks send each other is counted, and a step's time on many GPUs is reckoned from it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import communication, step_time
from benchmarks.communication import Traffic
from benchmarks.rates import needed_flops
from pipeline.config.schema import PretrainConfig

ORIGINAL = PretrainConfig()
AN_H200 = step_time.Assumptions()
EIGHT = Traffic(8, 11_000, 0.5, 3.5e9, 2.9e9, 3.5e8, 2e7)


def test_the_bytes_of_a_step_grow_with_the_ranks_and_stay_below_dense_ones(dataset: Path, tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    communication.main([f"data.path={dataset}", "data.vocab_size=2000", "softmax.num_samples=64",
                        "--lanes-per-rank=1", f"--output={output}"])  # fmt: skip
    small, middle, large = json.loads(output.read_text())
    assert small["union_rows"] < middle["union_rows"] < large["union_rows"] <= 2000
    assert all(row["bytes"] < row["dense_ddp_bytes"] and row["softmax_ratio"] > 1 for row in (small, middle, large))


def test_the_papers_model_needs_the_operations_that_were_counted_by_hand() -> None:
    position, both = (needed_flops(ORIGINAL.model, ORIGINAL.softmax.num_samples, share, None) / 3 for share in (0, 1))
    word = both - position
    assert word / 1e6 == pytest.approx(17.6 + 33.5 + 2.1, rel=0.01)
    assert position / 1e6 == pytest.approx(4 * 37.75 + 16.8, rel=0.01)


def test_one_gpu_waits_for_nobody_and_a_slower_network_makes_more_wait() -> None:
    compute = step_time.compute_seconds(ORIGINAL, EIGHT, 128, AN_H200)
    alone = step_time.step(ORIGINAL, replace(EIGHT, ranks=1), compute, 128, AN_H200)
    assert (alone.waits, alone.efficiency) == (0.0, 1.0)
    sixteen = replace(EIGHT, ranks=16)
    fast, slow = (
        step_time.step(ORIGINAL, sixteen, compute, 128, replace(AN_H200, network_bytes_a_second=rate))
        for rate in (50e9, 3e9)
    )
    assert alone.efficiency > fast.efficiency > slow.efficiency > 0
    assert slow.traffic > fast.traffic and fast.seconds < compute + fast.traffic
    assert step_time.step(ORIGINAL, EIGHT, compute, 128, AN_H200).waits < fast.waits
