"""Measure evaluation by full softmax over a large vocabulary: memory, and tokens/s compared with a bound.

python -m benchmarks.full_softmax [--vocabulary=793471] [--projection=512] [--positions=320,1280,5120] [--seconds=10]
    [--plain-gib=4] [--threads=N] [--output=FILE]

Positions: scored in one call; a token has two, one in each direction. Bound: 2 x V x P operations per position at the
rate of float32 matrix products, measured in the same run. Memory: the peak of the process less its memory before, the
table included. Plain: log_softmax over the whole (positions x V) matrix, if that matrix has at most --plain-gib GiB.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure.clock import middle, repeat
from benchmarks.measure.command import split_options, table, write_result
from benchmarks.measure.rates import matmul_rate
from pipeline.model.softmax import Softmax

Row = dict[str, float]


def _plain(softmax: Softmax, y: Tensor, targets: Tensor) -> Tensor:
    logits = F.linear(y, softmax.weight, softmax.bias)
    return -F.log_softmax(logits, 1).gather(1, targets.unsqueeze(1)).squeeze(1)


def _resident_mib(peak: bool) -> float:
    key = "VmHWM:" if peak else "VmRSS:"
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def _cost(run: Callable[[], Tensor], seconds: float) -> tuple[float, float]:
    """Return (median seconds of a call, MiB that it adds at its peak)."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present use
    before = _resident_mib(peak=False)
    spent = middle(repeat(run, seconds)).wall
    return spent, _resident_mib(peak=True) - before


@torch.no_grad()
def measure(vocabulary: int, projection: int, positions: list[int], seconds: float, plain_bytes: float) -> list[Row]:
    """Return a row for each number of positions."""
    torch.manual_seed(0)
    softmax, rows = Softmax(vocabulary, projection), []
    for number in positions:
        y, targets = torch.randn(number, projection), torch.randint(vocabulary, (number,))
        before = matmul_rate()
        spent, added = _cost(lambda y=y, targets=targets: softmax.full_loss(y, targets), seconds)
        rate, flops = (before + matmul_rate()) / 2, 2 * vocabulary * projection * number
        row: Row = {"positions": number, "vocabulary": vocabulary, "projection": projection, "sgemm_gflops": rate / 1e9}
        row |= {"tokens_per_second": number / spent / 2, "added_mib": added, "share_of_bound": flops / spent / rate}
        if 4 * number * vocabulary <= plain_bytes:
            plain_spent, plain_added = _cost(lambda y=y, targets=targets: _plain(softmax, y, targets), 0)
            row |= {"plain_ratio": plain_spent / spent, "plain_added_mib": plain_added}
            difference = (softmax.full_loss(y, targets) - _plain(softmax, y, targets)).abs().max()
            assert difference < 1e-3, f"the two ways differ by {difference}"
        rows.append(row)
    return rows


def main(arguments: list[str]) -> None:
    """Print the table and, with --output, write the figures as JSON."""
    defaults = {"vocabulary": 793_471, "projection": 512, "positions": "320,1280,5120", "seconds": 10.0}
    options, _ = split_options(__doc__, arguments, **defaults, plain_gib=4.0)
    positions, plain_bytes = [int(each) for each in options["positions"].split(",")], options["plain_gib"] * 2**30
    rows = measure(options["vocabulary"], options["projection"], positions, options["seconds"], plain_bytes)
    cells = []
    for r in rows:
        ours = [f"{r['tokens_per_second']:,.1f}", f"{r['share_of_bound']:.1%}", f"{r['added_mib']:,.0f} MiB"]
        has_plain = "plain_ratio" in r
        plain = [f"{r['plain_ratio']:.2f}", f"{r['plain_added_mib']:,.0f} MiB"] if has_plain else ["-", "-"]
        cells.append([f"{r['positions']:,}", *ours, *plain])
    print(table(["positions", "tokens/s", "of bound", "adds", "plain takes x", "plain adds"], cells))
    write_result(options["output"], rows)


if __name__ == "__main__":
    main(sys.argv[1:])
