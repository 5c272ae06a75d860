"""Measure opening a dataset for training, and the speed at which one process makes batches, with a profile.

python -m benchmarks.loader data.path=DATASET [CONFIG.yaml] [key=value ...] [--lanes=32,128,384] [--seconds=3]
    [--processes=2] [--rounds=5] [--output=FILE.json]

Opening: new processes start at the same time; each loads what a rank needs for its first batch, lexicon and vocabulary
included. Memory is what opening added: a process's own pages, and pages of mapped files, which the processes of a node
share (share: mapped pages divided by the number of processes that map them).

Tokens are positions of the text, each read by both directions. Raw windows: lexicon ids of inputs and targets. Finished
batches: unique words, their characters, target ids. Received: finished batches with the step's candidates and touched
rows, from a loader process of PyTorch, as in training.

Checks: finished batches of an epoch whose chunks are checked on first use, and of one without checks, in turns. Both
time the same steps, as many as --seconds allow, in CPU time of one process, which other processes disturb less. A chunk
is checked whole even if the run ends before its end, so a short run shows a larger cost than a long one.
"""

import cProfile
import multiprocessing
import pstats
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.command import split_options, write_result, yaml_files
from benchmarks.timed_step import Text
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.data.datamodule import StepBatches
from pipeline.train.step.inputs import Preparation

_MIB = 2.0**20
_PROFILED = 8
_PATIENCE_SECONDS = 120.0


def _memory() -> dict[str, float]:
    """Return MiB of this process: its own pages, pages of files, and its share of the pages of files."""
    names = {"Anonymous": "own_mib", "Rss": "rss", "Pss_File": "share_of_files_mib"}
    lines = (line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
    found = {names[key.rstrip(":")]: int(value) / 1024 for key, value, *_ in lines if key.rstrip(":") in names}
    return {**found, "files_mib": found.pop("rss") - found["own_mib"]}


def _open(config: PretrainConfig, together: Any, results: Any) -> None:
    torch.set_num_threads(1)
    together.wait()
    before, begun = _memory(), time.perf_counter()
    windows = Text(config).windows
    opened = time.perf_counter() - begun
    windows.batch(0, range(windows.lanes.num_lanes))
    seconds = time.perf_counter() - begun
    together.wait()  # until all processes have opened the dataset
    after = _memory()
    added = {f"added_{name}": after[name] - before[name] for name in after}
    results.put({"open_seconds": opened, "first_batch_seconds": seconds} | added | after)
    together.wait()


def measure_opening(config: PretrainConfig, processes: int) -> dict[str, float]:
    """Return the worst of each figure over processes that open the dataset at the same time."""
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(processes, timeout=_PATIENCE_SECONDS), context.Queue()
    started = [context.Process(target=_open, args=(config, together, results)) for _ in range(processes)]
    for process in started:
        process.start()
    found = [results.get(timeout=_PATIENCE_SECONDS) for _ in started]
    for process in started:
        process.join()
    return {name: max(one[name] for one in found) for name in found[0]}


def _rate(make: Callable[[int], Any], tokens: int, steps: int, seconds: float) -> float:
    """Return tokens per second of make(step), measured for `seconds` or until the end of the epoch."""
    count, begun = 0, time.perf_counter()
    while count < steps and (count < 3 or time.perf_counter() - begun < seconds):
        make(count)
        count += 1
    return count * tokens / (time.perf_counter() - begun)


def measure_speed(config: PretrainConfig, seconds: float) -> dict[str, float]:
    """Return tokens per second at the config's lanes."""
    lanes = range(config.data.lanes)
    text = Text(config)
    windows = text.windows
    tokens, steps = windows.lanes.tokens_per_step, windows.lanes.windows_per_epoch
    raw = _rate(lambda step: windows.ids(step, lanes), tokens, steps, seconds)
    unique: list[int] = []
    finished = _rate(lambda step: unique.append(len(windows.batch(step, lanes).characters)), tokens, steps, seconds)
    dataset = StepBatches(windows, [lanes], Preparation(config, text.vocabulary))
    loader = DataLoader(dataset, batch_size=None, sampler=range(steps), num_workers=1, prefetch_factor=4)
    batches = iter(loader)
    next(batches)
    return {
        "lanes": len(lanes), "window": config.data.window, "raw_tokens_per_second": raw,
        "finished_tokens_per_second": finished,
        "received_tokens_per_second": _rate(lambda step: next(batches), tokens, steps - 1, seconds),
        "unique_share": sum(unique) / len(unique) / tokens,
    }  # fmt: skip


def measure_checks(config: PretrainConfig, seconds: float, rounds: int) -> dict[str, Any]:
    """Return the ratio of CPU seconds of finished batches with and without checks of chunks: median, and each round.

    share: the checks' share of the CPU seconds of batches with checks; other processes disturb this figure least.
    """
    lanes, epoch = range(config.data.lanes), Text(config).windows.lanes.windows_per_epoch
    tried = min(epoch, 200)
    steps = min(epoch, max(3, round(seconds * tried / _spent(config, tried, False)[0])))
    ratios, total, in_checks = [], 0.0, 0.0
    for number in range(rounds):
        ways = (True, False) if number % 2 else (False, True)
        spent = {way: _spent(config, steps, way) for way in ways}
        ratios.append(spent[True][0] / spent[False][0])
        total, in_checks = total + spent[True][0], in_checks + spent[True][1]
    return {
        "lanes": len(lanes), "steps": steps, "epoch_steps": epoch, "ratio": statistics.median(ratios),
        "ratios": ratios, "share": in_checks / total,
    }  # fmt: skip


def _spent(config: PretrainConfig, steps: int, with_checks: bool) -> tuple[float, float]:
    """Return CPU seconds of finished batches, and of the checks among them."""
    windows, in_checks = Text(config).windows, 0.0
    split = windows._split
    find = split.faults

    def faults(index: int, ids: np.ndarray) -> list[str]:
        nonlocal in_checks
        begun = time.process_time()
        found = list(find(index, ids))
        in_checks += time.process_time() - begun
        return found

    split.faults = faults  # type: ignore[method-assign, assignment]
    split._is_checked[:] = not with_checks  # True: as after a first epoch, in which all chunks are checked
    begun = time.process_time()
    for step in range(steps):
        windows.batch(step, range(config.data.lanes))
    return time.process_time() - begun, in_checks


def profile(config: PretrainConfig, seconds: float) -> list[tuple[str, float]]:
    """Return the functions in which finished batches take their time, each with its share (own time only)."""
    windows, profiler = Text(config).windows, cProfile.Profile()
    make = windows.batch
    profiler.enable()
    _rate(lambda step: make(step, range(config.data.lanes)), 1, windows.lanes.windows_per_epoch, seconds)
    profiler.disable()
    stats = pstats.Stats(profiler)
    total = sum(values[2] for values in stats.stats.values())  # type: ignore[attr-defined]
    found = [
        (f"{Path(file).name}:{name}" if line else name, values[2] / total)
        for (file, line, name), values in stats.stats.items()  # type: ignore[attr-defined]
    ]
    return sorted(found, key=lambda pair: -pair[1])[:_PROFILED]


def main(arguments: list[str]) -> None:
    """Print the tables and, with --output, write the figures as JSON."""
    options, rest = split_options(arguments, lanes="32,128,384", seconds=3.0, processes=2, threads=1, rounds=5)
    files, pairs = yaml_files(rest, "configs/original.yaml")
    sizes = [int(number) for number in options["lanes"].split(",")]
    configs = [load(PretrainConfig, [*files, *pairs, f"data.lanes={lanes}"]) for lanes in sizes]
    opening = measure_opening(configs[-1], options["processes"])
    print(
        f"opened in {opening['open_seconds']:.2f} s, first batch of {sizes[-1]} lanes after "
        f"{opening['first_batch_seconds']:.2f} s ({options['processes']} processes at once)\n"
        f"memory added a process: {opening['added_own_mib']:,.0f} MiB its own, {opening['added_files_mib']:,.0f} MiB "
        f"of mapped files, of which its share is {opening['added_share_of_files_mib']:,.0f} MiB; in all "
        f"{opening['own_mib']:,.0f} MiB its own, Python and torch included"
    )
    print(f"\n{'M tokens/s':>12}{'raw':>8}{'finished':>10}{'received':>10}{'unique/positions':>18}")
    speeds = []
    for config in configs:
        row = measure_speed(config, options["seconds"])
        speeds.append(row)
        print(
            f"{row['lanes']:5} x {row['window']:4}{row['raw_tokens_per_second'] / 1e6:8.1f}"
            f"{row['finished_tokens_per_second'] / 1e6:10.1f}{row['received_tokens_per_second'] / 1e6:10.1f}"
            f"{row['unique_share']:18.3f}"
        )
    checks = [measure_checks(config, options["seconds"], options["rounds"]) for config in configs]
    print("\nchecks of chunks: their share of finished batches; batches with them over those without (each round)")
    for row in checks:
        each = ", ".join(f"{ratio:.3f}" for ratio in row["ratios"])
        done = f"{row['steps']} of {row['epoch_steps']} steps"
        print(f"{row['lanes']:5} lanes, {done}{row['share']:8.2%}{row['ratio']:8.3f} ({each})")
    parts = profile(configs[len(configs) // 2], options["seconds"])
    print(f"\nwhere finished batches of {sizes[len(sizes) // 2]} lanes take their time")
    for name, share in parts:
        print(f"{share:6.1%}  {name}")
    write_result(options["output"], {"opening": opening, "speed": speeds, "checks": checks, "profile": dict(parts)})


if __name__ == "__main__":
    main(sys.argv[1:])
