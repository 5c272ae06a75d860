"""Measure epochs an hour of a task: the baseline, with kept layers of the biLM, and with the biLM run in every batch.

python -m benchmarks.task_epochs TASK OUT [FILE.yaml ...] [key=value ...] [--epochs=2] [--rounds=1]

The files and pairs are those of `elmo task`; elmo.checkpoint is needed. In every batch, the biLM is run by our code
(elmo.keep=no) and as AllenNLP runs it (benchmarks/measure/plain_elmo.py), with the same layers as result. Each way is
trained for one epoch, in which the layers are computed and the process starts, and then resumed for `epochs` more,
which are measured, evaluations on dev included. The ways take turns; each figure is the best round.
"""

import json
import sys
from pathlib import Path

from benchmarks.measure.command import run_module, split_options, table, write_result

OURS, ALLENNLP = ["pipeline.cli", "task"], ["benchmarks.measure.plain_elmo"]
WAYS = {  # module to run, options
    "baseline": (OURS, ["elmo.placement=none"]),
    "kept layers": (OURS, []),
    "biLM in every batch": (OURS, ["elmo.keep=no"]),
    "AllenNLP's way": (ALLENNLP, []),
}


def seconds_an_epoch(command: list[str], run_dir: Path, epochs: int) -> float:
    """Return the seconds of an epoch from the second one on."""
    seconds = []
    for last in (1, 1 + epochs):
        limits = [f"training.max_epochs={last}", "training.patience=null", f"run.dir={run_dir}"]
        run_module(*command, *limits)
        seconds.append(float(json.loads((run_dir / "result.json").read_text())["seconds"]))
    return (seconds[1] - seconds[0]) / epochs


def main(arguments: list[str]) -> None:
    options, rest = split_options(__doc__, arguments, epochs=2, rounds=1)
    if len(rest) < 3:
        raise SystemExit("give a task, a folder for its runs, and the arguments of elmo task")
    task, out, *given = rest
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(options["rounds"]):
        for way, (name, (command, settings)) in enumerate(WAYS.items()):
            run = [*command, task, *given, *settings]
            found[name].append(seconds_an_epoch(run, Path(out) / f"round{number}-way{way}", options["epochs"]))
    best = {name: min(seconds) for name, seconds in found.items()}
    slowest, baseline = best["AllenNLP's way"], best["baseline"]
    rows = [
        [name, f"{s:,.1f}", f"{3600 / s:,.0f}", f"{slowest / s:.1f}x", f"{s / baseline:.2f}x"]
        for name, s in best.items()
    ]
    heads = ["ELMo", "seconds an epoch", "epochs an hour", "of AllenNLP's way", "time of the baseline"]
    print(table(heads, rows))
    write_result(options["output"], best)


if __name__ == "__main__":
    main(sys.argv[1:])
