"""Training speed of configs on this machine, compared with plain PyTorch and the rate of matrix products, in one run.

python -m benchmarks.train_step data.path=DATASET [configs/small.yaml ...] [key=value ...] [--lanes=32,128]
    [--seconds=20] [--rounds=3] [--vocabulary=N] [--ways=ours,plain,nn.LSTM] [--parts] [--threads=N] [--output=FILE]

Ways: ours; plain PyTorch with AllenNLP's per-step cell, all characters of every position encoded, a dense gradient of
the table and torch's Adagrad (benchmarks/plain.py); the same with nn.LSTM(proj_size), which has no clips. A way whose
name ends in -bf16 computes matrix products in bfloat16, as train.precision=bf16-mixed does:
--ways=ours,ours-bf16,plain,plain-bf16. Ours keeps freed memory, as training does (pipeline/train/trainer.py); the
others give it back, as programs of PyTorch do. A way whose name ends in -kept or -freed does as that says. Ours and
plain give the same loss in float32 (checked). The ways take turns, so many rounds, each turn after a step that does not
count; a way's figure is its median step.
Share: the rate of operations that are needed (unique words encoded once, their windows by sums of table rows), relative
to the rate of float32 matrix products (the faster of torch's and the model's, measured before and after). --parts: the
time of each part. --vocabulary: words of the softmax [default: by config and dataset]. No Lightning, no loader process.
"""

import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmarks.command import split_options, write_result, yaml_files
from benchmarks.freed_memory import settle_freed_memory
from benchmarks.plain import PlainBiLM
from benchmarks.rates import best_rate, needed_flops, product_rates
from benchmarks.timed_step import PARTS, Ours, Plain, Steps, Text
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.model.language_model import LanguageModel

WAYS = ("ours", "plain", "nn.LSTM")
_FLAGS = ("bf16", "kept", "freed")
_CONFIGS = ("benchmarks/tiny.yaml", "configs/small.yaml", "configs/original.yaml")
_LEAST_STEPS = 2


def _is_known(way: str) -> bool:
    kind, *flags = way.split("-")
    return kind in WAYS and set(flags) <= set(_FLAGS)


def build_steps(config: PretrainConfig, vocabulary: int, ways: list[str]) -> dict[str, Steps]:
    """Return Steps of each way, from the same weights on the same text."""
    texts = {name: Text(config, vocabulary) for name in ways}
    torch.manual_seed(0)
    bilm = LanguageModel(config.model, texts[ways[0]].vocabulary)
    plain = PlainBiLM(bilm) if any(not name.startswith("ours") for name in ways) else None
    made: dict[str, Steps] = {}
    for name in ways:
        kind, *flags = name.split("-")
        way = Ours(config, bilm) if plain is None or kind == "ours" else Plain(config, plain, kind == "plain")
        made[name] = Steps(config, texts[name], way, "bf16" in flags)
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
    rates = [product_rates()]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(options["rounds"]):
        for name, one in steps.items():
            settle_freed_memory(_keeps_memory(name))
            one()
            _run(one, times[name], options["seconds"] / options["rounds"])
            if options["parts"]:
                for _ in range(_LEAST_STEPS):
                    one.in_parts()
    rates.append(product_rates())
    tokens = config.data.lanes * config.data.window
    any_steps = next(iter(steps.values()))
    unique = any_steps.words / any_steps.steps / tokens
    letters = any_steps.characters / any_steps.words
    flops = needed_flops(config.model, config.softmax.num_samples, unique, letters, by_tables=True)
    result: dict[str, Any] = {
        "lanes": config.data.lanes, "window": config.data.window, "vocabulary": any_steps.text.vocabulary,
        "unique_share": unique, "needed_mflop_per_token": flops / 1e6,
        "sgemm_gflops": best_rate(*rates) / 1e9, "rates": rates, "threads": torch.get_num_threads(), "ways": {},
    }  # fmt: skip
    for name, pairs in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        result["ways"][name] = {
            "steps": len(pairs), "tokens_per_second": tokens / wall, "cpu_seconds_per_step": cpu,
            "share_of_sgemm": flops * tokens / wall / best_rate(*rates),
        }  # fmt: skip
        if options["parts"]:
            clock = steps[name].clock
            result["ways"][name]["parts_seconds"] = {part: clock.wall[part] / clock.steps for part in PARTS}
    return result


def _keeps_memory(way: str) -> bool:
    kind, *flags = way.split("-")
    return "kept" in flags or (kind == "ours" and "freed" not in flags)


def _run(steps: Steps, times: list[tuple[float, float]], seconds: float) -> None:
    """Run steps for `seconds`, and at least a few; append wall and CPU seconds of each to times."""
    begun, count = time.perf_counter(), 0
    while count < _LEAST_STEPS or time.perf_counter() - begun < seconds:
        wall, cpu = time.perf_counter(), time.process_time()
        steps()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
        count += 1


def print_rows(name: str, result: dict[str, Any]) -> None:
    """Print the figures of one config and number of lanes."""
    ours = result["ways"].get("ours")
    for way, row in result["ways"].items():
        ratio = cpu_ratio = float("nan")
        if ours:
            ratio = ours["tokens_per_second"] / row["tokens_per_second"]
            cpu_ratio = row["cpu_seconds_per_step"] / ours["cpu_seconds_per_step"]
        print(
            f"{name:10}{result['lanes']:6} {way:11}{row['tokens_per_second']:10,.0f}{ratio:11.2f}{cpu_ratio:11.2f}"
            f"{result['needed_mflop_per_token']:10.1f}{result['sgemm_gflops']:8.1f}{row['share_of_sgemm']:8.1%}",
            flush=True,
        )
        if spent := row.get("parts_seconds"):
            total = sum(spent.values())
            each = (f"{part} {spent[part] * 1e3:,.1f} ms ({spent[part] / total:.0%})" for part in PARTS)
            print(f"{'':16} {', '.join(each)}", flush=True)


def main(arguments: list[str]) -> None:
    """Print the table and, with --output, write the figures as JSON."""
    options, rest = split_options(
        arguments, lanes="32,128", seconds=20.0, rounds=3, vocabulary=0, ways=",".join(WAYS), parts=False
    )
    files, pairs = yaml_files(rest, *_CONFIGS)
    if unknown := [way for way in options["ways"].split(",") if not _is_known(way)]:
        raise SystemExit(f"--ways={unknown[0]} is unknown; there are {', '.join(WAYS)}, each with -bf16, -kept, -freed")
    warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
    print(
        f"{'config':10}{'lanes':>6} {'way':11}{'tokens/s':>10}{'ours is x':>11}{'CPU: x':>11}{'MF/token':>10}"
        f"{'sgemm':>8}{'share':>8}"
    )
    results: dict[str, Any] = {}
    for file in files:
        for lanes in options["lanes"].split(","):
            config = load(PretrainConfig, [file, *pairs, f"data.lanes={lanes}"])
            result = measure(config, options)
            results[f"{Path(file).stem} x {lanes}"] = result
            print_rows(Path(file).stem, result)
    write_result(options["output"], results)


if __name__ == "__main__":
    main(sys.argv[1:])
