"""Measure the training speed of configs, compared with plain PyTorch and the rate of matrix products, in one run.

python -m benchmarks.train_step data.path=DATASET [configs/small.yaml ...] [key=value ...] [--lanes=32,128]
    [--seconds=20] [--rounds=3] [--vocabulary=N] [--ways=ours,plain,nn.LSTM] [--parts] [--threads=N] [--output=FILE]

Ways: ours; plain PyTorch with AllenNLP's per-step cell, all characters of every position encoded, a dense gradient of
the table and torch's Adagrad (benchmarks/measure/plain.py); the same with nn.LSTM(proj_size), which has no clips. A way
whose name ends in -bf16 computes matrix products in bfloat16, as train.precision=bf16-mixed does:
--ways=ours,ours-bf16,plain,plain-bf16. Ours keeps freed memory, as training does (pipeline/train/trainer.py); the
others give it back, as programs of PyTorch do. Ours and plain give the same loss in float32 (checked). The ways take
turns in --rounds rounds; the first step of a turn does not count; the figure of a way is its median step.
Share: the rate of operations that are needed (unique words encoded once, their windows by sums of table rows), relative
to the rate of float32 matrix products (the faster of torch's and the model's, measured before and after). --parts: the
milliseconds of each part. --vocabulary: words of the softmax [default: by config and dataset]. No Lightning, no loader
process.
"""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure.clock import Seconds, middle, repeat
from benchmarks.measure.command import require_known, split_options, table, write_result, yaml_files
from benchmarks.measure.plain import PlainBiLM, give_back_freed_memory
from benchmarks.measure.rates import matmul_rate, needed_flops
from benchmarks.measure.timed_step import PARTS, Ours, Plain, Steps, Text
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.train.auto import resolve_auto
from pipeline.train.trainer import keep_freed_memory

WAYS = ("ours", "plain", "nn.LSTM", "ours-bf16", "plain-bf16", "nn.LSTM-bf16")
_CONFIGS = ("benchmarks/tiny.yaml", "configs/small.yaml", "configs/original.yaml")
_LEAST_STEPS = 2


def build_steps(config: PretrainConfig, vocabulary: int, ways: list[str]) -> dict[str, Steps]:
    """Return Steps of each way, from the same weights on the same text."""
    texts = {name: Text(config, vocabulary) for name in ways}
    torch.manual_seed(0)
    bilm = texts[ways[0]].network(config, torch.device("cpu"))
    plain = PlainBiLM(bilm) if any(not name.startswith("ours") for name in ways) else None
    made: dict[str, Steps] = {}
    for name in ways:
        kind = name.removesuffix("-bf16")
        way = Ours(config, bilm) if plain is None or kind == "ours" else Plain(config, plain, kind == "plain")
        made[name] = Steps(config, texts[name], way, name.endswith("-bf16"))
    return made


def check_equal(steps: dict[str, Steps]) -> None:
    """Check that ours and plain give the same loss."""
    losses = {name: one.first_loss() for name, one in steps.items() if name in ("ours", "plain")}
    assert not losses or max(losses.values()) - min(losses.values()) < 1e-3, f"the ways differ: {losses}"


def measure(config: PretrainConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of each way, and of the machine in the same run."""
    steps = build_steps(config, options["vocabulary"], options["ways"].split(","))
    check_equal(steps)
    for number, one in enumerate(steps.values()):
        one.step = number * one.text.windows.lanes.windows_per_epoch // len(steps)  # shapes that are new to each
    rate = matmul_rate()
    times: dict[str, list[Seconds]] = {name: [] for name in steps}
    for _ in range(options["rounds"]):
        for name, one in steps.items():
            set_memory = keep_freed_memory if name.startswith("ours") else give_back_freed_memory
            set_memory()
            one()
            times[name] += repeat(one, options["seconds"] / options["rounds"], _LEAST_STEPS)
            for _ in range(_LEAST_STEPS if options["parts"] else 0):
                one.in_parts()
    rate = (rate + matmul_rate()) / 2
    first, tokens = next(iter(steps.values())), config.data.lanes * config.data.window
    unique, letters = first.words / first.steps_done / tokens, first.characters / first.words
    flops = needed_flops(config.model, config.softmax.num_samples, unique, letters, by_tables=True)
    result: dict[str, Any] = {
        "lanes": config.data.lanes,
        "window": config.data.window,
        "vocabulary": first.text.vocabulary,
    }
    result |= {"unique_share": unique, "needed_mflop_per_token": flops / 1e6, "sgemm_gflops": rate / 1e9}
    result |= {"threads": torch.get_num_threads(), "ways": {}}
    for name, one in steps.items():
        step = middle(times[name])
        row: dict[str, Any] = {
            "steps": len(times[name]),
            "tokens_per_second": tokens / step.wall,
            "cpu_seconds_per_step": step.cpu,
        }
        row |= {"share_of_sgemm": flops * tokens / step.wall / rate}
        if options["parts"]:
            row["parts_seconds"] = {part: one.part_seconds[part] / one.steps_in_parts for part in PARTS}
        result["ways"][name] = row
    return result


def print_table(name: str, result: dict[str, Any], with_parts: bool) -> None:
    """Print the figures of one config and number of lanes."""
    ours, rows = result["ways"].get("ours"), []
    for way, row in result["ways"].items():
        cells = [way, f"{row['tokens_per_second']:,.0f}", "-", "-", f"{row['share_of_sgemm']:.1%}"]
        if ours:
            cells[2] = f"{ours['tokens_per_second'] / row['tokens_per_second']:.2f}"
            cells[3] = f"{row['cpu_seconds_per_step'] / ours['cpu_seconds_per_step']:.2f}"
        rows.append([*cells, *(f"{1e3 * row['parts_seconds'][part]:,.1f}" for part in PARTS if with_parts)])
    heads = [f"{name} x {result['lanes']}", "tokens/s", "ours is x", "CPU: x", "share"]
    print(table([*heads, *(f"{part}, ms" for part in PARTS if with_parts)], rows))
    needed, rate = result["needed_mflop_per_token"], result["sgemm_gflops"]
    print(f"a token needs {needed:.1f} MFLOP; float32 matrix products reach {rate:.1f} GFLOP/s\n", flush=True)


def main(arguments: list[str]) -> None:
    """Print the tables and, with --output, write the figures as JSON."""
    ways = ",".join(WAYS[:3])
    defaults = {"lanes": "32,128", "seconds": 20.0, "rounds": 3, "vocabulary": 0, "ways": ways, "parts": False}
    options, rest = split_options(__doc__, arguments, **defaults)
    files, pairs = yaml_files(rest, *_CONFIGS)
    require_known("ways", options["ways"].split(","), WAYS)
    warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
    results: dict[str, Any] = {}
    for file in files:
        for lanes in options["lanes"].split(","):
            config = load(PretrainConfig, [file, *pairs, f"data.lanes={lanes}"])
            resolve_auto(config, "cpu", steps=1)
            result = results[f"{Path(file).stem} x {lanes}"] = measure(config, options)
            print_table(Path(file).stem, result, options["parts"])
    write_result(options["output"], results)


if __name__ == "__main__":
    main(sys.argv[1:])
