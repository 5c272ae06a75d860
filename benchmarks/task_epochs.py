"""Measure epochs an hour of a task: the baseline, with kept layers of the biLM, and with the biLM in every batch.

python -m benchmarks.task_epochs TASK OUT [FILE.yaml ...] [key=value ...] [--epochs=2] [--rounds=1]

The files and pairs are those of `elmo task`; elmo.checkpoint is needed. AllenNLP runs the biLM in every batch
(elmo.keep=no). Each way is trained for one epoch, in which the layers are computed and the process starts, and then
resumed for `epochs` more, which are measured, evaluations on dev included. The ways take turns; each figure is the best
round.
"""

import json
import sys
from pathlib import Path

from benchmarks.measure.command import elmo, split_options, table, write_result

WAYS = {
    "baseline": ["elmo.placement=none"],
    "kept layers": [],
    "biLM in every batch": ["elmo.keep=no"],
}


def seconds_an_epoch(task: str, run_dir: Path, arguments: list[str], epochs: int) -> float:
    """Return the seconds of an epoch from the second one on."""
    seconds = []
    for last in (1, 1 + epochs):
        limits = [f"training.max_epochs={last}", "training.patience=null", f"run.dir={run_dir}"]
        elmo("task", task, *arguments, *limits)
        seconds.append(float(json.loads((run_dir / "result.json").read_text())["seconds"]))
    return (seconds[1] - seconds[0]) / epochs


def main(arguments: list[str]) -> None:
    options, rest = split_options(__doc__, arguments, epochs=2, rounds=1)
    if len(rest) < 3:
        raise SystemExit("give a task, a folder for its runs, and the arguments of elmo task")
    task, out, *given = rest
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(options["rounds"]):
        for name, settings in WAYS.items():
            run_dir = Path(out) / f"{number}-{name.replace(' ', '-')}"
            found[name].append(seconds_an_epoch(task, run_dir, [*given, *settings], options["epochs"]))
    best = {name: min(seconds) for name, seconds in found.items()}
    every, baseline = best["biLM in every batch"], best["baseline"]
    rows = [
        [name, f"{s:,.1f}", f"{3600 / s:,.0f}", f"{every / s:.1f}x", f"{s / baseline:.2f}x"] for name, s in best.items()
    ]
    heads = ["ELMo", "seconds an epoch", "epochs an hour", "of the biLM in every batch", "time of the baseline"]
    print(table(heads, rows))
    write_result(options["output"], best)


if __name__ == "__main__":
    main(sys.argv[1:])
