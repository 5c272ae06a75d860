"""Rates of float32 matrix products at the model's shapes: torch's, oneDNN's with packed weights, and which is used.

python -m benchmarks.products [--seconds=0.1] [--threads=N] [--output=FILE]

M x K x N: M rows times a weight matrix (K, N). 32 or 128 rows are a time step of the recurrence, whose weights are
packed if the model uses oneDNN; 640 rows are a window's words, whose weights are never packed.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.command import split_options, write_result
from pipeline.model.backend import matmul as backend

SHAPES = (
    (32, 64, 1024), (32, 256, 64), (32, 128, 4096), (32, 1024, 128), (32, 512, 16384), (32, 4096, 512),
    (128, 512, 16384), (640, 512, 512), (640, 2048, 2048),
)  # fmt: skip
_WINDOW = 640


def rate(run: Callable[[], Any], flops: float, seconds: float) -> float:
    """Return floating-point operations per second of the fastest of several calls."""
    run()
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return flops / best


def measure(shape: tuple[int, int, int], seconds: float) -> dict[str, Any]:
    rows, depth, width = shape
    left, right, out = torch.randn(rows, depth), torch.randn(depth, width), torch.empty(rows, width)
    packed = torch.ops.mkldnn._reorder_linear_weight(right.t().contiguous(), None)
    if rows < _WINDOW:
        is_onednn = isinstance(backend.packed(right.unsqueeze(0)), list)
    else:
        is_onednn = backend.suits_onednn(left, right)
    flops = 2.0 * rows * depth * width
    return {
        "torch": rate(lambda: torch.mm(left, right, out=out), flops, seconds) / 1e9,
        "onednn": rate(lambda: backend.matmul(left, packed), flops, seconds) / 1e9,
        "taken": "oneDNN" if is_onednn else "torch",
    }


def main(arguments: list[str]) -> None:
    """Print the table and, with --output, write the figures as JSON."""
    options, _ = split_options(arguments, seconds=0.1)
    results = {" x ".join(map(str, shape)): measure(shape, options["seconds"]) for shape in SHAPES}
    print(f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads; GFLOP/s")
    print(f"{'shape':20}{'torch':>8}{'oneDNN':>8}  taken")
    for shape, row in results.items():
        print(f"{shape:20}{row['torch']:8.1f}{row['onednn']:8.1f}  {row['taken']}")
    write_result(options["output"], results)


if __name__ == "__main__":
    main(sys.argv[1:])
