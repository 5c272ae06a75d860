"""Measure opening a dataset for training, and the speed at which one process makes batches.

python -m benchmarks.loader data.path=DATASET [CONFIG.yaml] [key=value ...] [--lanes=32,128,384] [--seconds=3]
    [--output=FILE.json]

Opening: what a rank needs for its first batch, lexicon and vocabulary included.
Tokens are positions of the text, each read by both directions. Raw windows: lexicon ids of inputs and targets. Finished
batches: unique words, their characters, target ids. Received: finished batches with the step's candidates and touched
rows, from a loader process of PyTorch, as in training.
"""

import sys
import time
from collections.abc import Callable
from itertools import count
from typing import Any

from torch.utils.data import DataLoader

from benchmarks.measure.clock import repeat
from benchmarks.measure.command import split_options, table, write_result, yaml_files
from benchmarks.measure.timed_step import Text
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.data.datamodule import START_METHOD, StepBatches
from pipeline.train.step.inputs import Preparation


def measure_opening(config: PretrainConfig) -> dict[str, float]:
    """Return the seconds until the dataset is open, and until its first batch is made."""
    begun = time.perf_counter()
    windows = Text(config).windows
    opened = time.perf_counter() - begun
    windows.batch(0, range(windows.lanes.num_lanes))
    return {"open_seconds": opened, "first_batch_seconds": time.perf_counter() - begun}


def _rate(make: Callable[[int], Any], tokens: int, steps: int, seconds: float) -> float:
    """Return tokens per second of make(step), measured for `seconds` or until the end of the epoch."""
    numbers = count()
    spent = repeat(lambda: make(next(numbers)), seconds, least=3, most=steps)
    return len(spent) * tokens / sum(each.wall for each in spent)


def measure_speed(config: PretrainConfig, seconds: float) -> dict[str, float]:
    """Return tokens per second at the config's lanes."""
    lanes, text, unique = range(config.data.lanes), Text(config), list[int]()
    windows = text.windows
    tokens, steps = windows.lanes.tokens_per_step, windows.lanes.windows_per_epoch
    raw = _rate(lambda step: windows.ids(step, lanes), tokens, steps, seconds)
    finished = _rate(lambda step: unique.append(len(windows.batch(step, lanes).characters)), tokens, steps, seconds)
    dataset = StepBatches(windows, [lanes], Preparation(config, text.vocabulary))
    workers: dict[str, Any] = {"num_workers": 1, "prefetch_factor": 4, "multiprocessing_context": START_METHOD}
    batches = iter(DataLoader(dataset, batch_size=None, sampler=range(steps), **workers))
    next(batches)
    received = _rate(lambda step: next(batches), tokens, steps - 1, seconds)
    rates = {"raw": raw, "finished": finished, "received": received}
    found = {f"{name}_tokens_per_second": rate for name, rate in rates.items()}
    return found | {"lanes": len(lanes), "unique_share": sum(unique) / len(unique) / tokens}


def main(arguments: list[str]) -> None:
    """Print the figures and, with --output, write them as JSON."""
    options, rest = split_options(__doc__, arguments, lanes="32,128,384", seconds=3.0, threads=1)
    files, pairs = yaml_files(rest, "configs/original.yaml")
    sizes = options["lanes"].split(",")
    configs = [load(PretrainConfig, [*files, *pairs, f"data.lanes={lanes}"]) for lanes in sizes]
    opening = measure_opening(configs[-1])
    first = f"first batch of {sizes[-1]} lanes after {opening['first_batch_seconds']:.2f} s"
    print(f"opened in {opening['open_seconds']:.2f} s, {first}\n")
    speeds = [measure_speed(config, options["seconds"]) for config in configs]
    kinds = ("raw", "finished", "received")
    rates = [[f"{row[f'{kind}_tokens_per_second'] / 1e6:.1f}" for kind in kinds] for row in speeds]
    rows = [[lanes, *row, f"{s['unique_share']:.3f}"] for lanes, row, s in zip(sizes, rates, speeds, strict=True)]
    print(table(["lanes", *(f"{kind}, M tokens/s" for kind in kinds), "unique/positions"], rows))
    write_result(options["output"], {"opening": opening, "speed": speeds})


if __name__ == "__main__":
    main(sys.argv[1:])
