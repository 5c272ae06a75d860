"""Measure what Lightning, logging and callbacks add to a step: a real `elmo pretrain` run against the bare step.

python -m benchmarks.step_overhead data.path=DATASET [configs/small.yaml] [key=value ...] [--lanes=32] [--pairs=12]
    [--block=6] [--threads=1] [--output=FILE]

The run is complete (wandb offline, metrics, checkpoints, progress). Between its steps, in the same process, blocks of
bare steps of an equal model run on the other half of the text. Each block of the run is compared with the bare blocks
before and after it. The first step of a block is left out, because caches are cold. Both make their batches in the main
process (data.workers=0), so that only steps are compared. Checkpoints and validation are not part of a step.
"""

import statistics
import sys
import tempfile
import time
from typing import Any

import pytorch_lightning as pl

from benchmarks.command import split_options, write_result, yaml_files
from benchmarks.train_step import build_steps
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.train import run as train_run

Times = tuple[float, float]  # wall, CPU


class Alternate(pl.Callback):
    """Time the run's steps, and interrupt the run at intervals to time bare steps."""

    def __init__(self, config: PretrainConfig, block: int) -> None:
        self._bare, self._block = build_steps(config, 0, ["ours"])["ours"], block
        self._bare.step = self._bare.text.windows.lanes.windows_per_epoch // 2  # new shapes for both
        self._bare()
        self.bare_blocks: list[list[Times]] = []
        self.run_blocks: list[list[Times]] = []
        self._last = (0.0, 0.0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._time_bare()

    def on_train_batch_end(self, *args: Any) -> None:
        self.run_blocks[-1].append(self._since())
        if len(self.run_blocks[-1]) == self._block:
            self._time_bare()

    def _time_bare(self) -> None:
        self.bare_blocks.append([])
        self._since()
        for _ in range(self._block):
            self._bare()
            self.bare_blocks[-1].append(self._since())
        self.run_blocks.append([])
        self._since()

    def _since(self) -> Times:
        """Return wall and CPU seconds since the last call."""
        now = time.perf_counter(), time.process_time()
        spent = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        return spent


def _middle(block: list[Times], column: int) -> float:
    return statistics.median(times[column] for times in block[1:])


def overhead(alternate: Alternate, column: int) -> dict[str, float]:
    """Return seconds of both and the quartiles of the relative overhead over pairs. column: 0 wall, 1 CPU."""
    bare = [_middle(block, column) for block in alternate.bare_blocks]
    runs = [_middle(block, column) for block in alternate.run_blocks if len(block) > 1]
    pairs = list(zip(runs, bare, bare[1:], strict=False))
    low, middle, high = statistics.quantiles([run / ((a + b) / 2) - 1 for run, a, b in pairs], n=4)
    return {
        "bare_seconds": statistics.median(bare), "run_seconds": statistics.median(runs), "pairs": len(pairs),
        "overhead": middle, "overhead_low_quartile": low, "overhead_high_quartile": high,
    }  # fmt: skip


def measure(config: PretrainConfig, block: int) -> dict[str, dict[str, float]]:
    """Return the overhead in wall and in CPU seconds."""
    made, build = [Alternate(config, block)], train_run.build_trainer

    def with_alternate(config: PretrainConfig, wandb_run: Any, callbacks: list[pl.Callback]) -> pl.Trainer:
        return build(config, wandb_run, [*callbacks, made[0]])  # last, so that its times include all other callbacks

    train_run.build_trainer = with_alternate  # type: ignore[assignment]
    try:
        train_run.pretrain(config)
    finally:
        train_run.build_trainer = build
    return {"wall": overhead(made[0], 0), "cpu": overhead(made[0], 1)}


def main(arguments: list[str]) -> None:
    """Print the table and, with --output, write the figures as JSON."""
    options, rest = split_options(arguments, lanes=32, pairs=12, block=6, threads=1)
    files, pairs = yaml_files(rest, "configs/small.yaml")
    never = 1 << 30
    with tempfile.TemporaryDirectory() as folder:
        own = {
            "data.lanes": options["lanes"], "data.workers": 0, "train.threads": options["threads"],
            "train.max_steps": options["pairs"] * options["block"], "train.epochs": 1e6, "wandb.mode": "offline",
            "train.validate_every_steps": never, "checkpoint.every_steps": never, "run.dir": f"{folder}/run",
        }  # fmt: skip
        config = load(PretrainConfig, [*files, *(f"{key}={value}" for key, value in own.items()), *pairs])
        result = measure(config, options["block"])
    print(f"{'':6}{'bare step':>12}{'in the run':>12}{'overhead':>10}{'quartiles':>18}{'pairs':>7}")
    for name, row in result.items():
        quartiles = f"{row['overhead_low_quartile']:.1%} to {row['overhead_high_quartile']:.1%}"
        print(
            f"{name:6}{row['bare_seconds'] * 1e3:9.1f} ms{row['run_seconds'] * 1e3:9.1f} ms{row['overhead']:10.1%}"
            f"{quartiles:>18}{row['pairs']:7}"
        )
    write_result(options["output"], result)


if __name__ == "__main__":
    main(sys.argv[1:])
