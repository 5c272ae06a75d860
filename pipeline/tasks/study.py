"""`elmo study`: a grid of task runs from one YAML file, each a run folder that resumes; and one table of them all."""

import csv
import io
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.dataset.files import write_bytes, write_json
from data_prep.dataset.locations import local_path
from data_prep.dataset.typed_json import load_json
from data_prep.orphans import end_with_parent
from data_prep.progress import Progress
from data_prep.workers import usable_cores
from pipeline.config.load import load, to_yaml
from pipeline.config.schema import ConfigError, require
from pipeline.config.tasks import TASKS, StudyConfig, TaskConfig, task_schema
from pipeline.config.terminal import align
from pipeline.tasks.contents import content_changes
from pipeline.tasks.training.result import RESULT, SavedResult
from pipeline.tasks.training.settings import describe_changes, settings_of_scores
from pipeline.train.cluster import signals
from pipeline.train.cluster.torchrun_env import is_torchrun

DEFAULT = "default"  # value of a grid: leave the option as the task has it
_SEED = "run.seed"
_SETTINGS = "settings.yaml"
RESULTS = "results.json"


@dataclass(frozen=True)
class StudyRun:
    """A run of the grid. changes: its own options, in the grid's order."""

    task: str
    changes: tuple[tuple[str, Any], ...]
    folder: Path

    @property
    def result(self) -> SavedResult | None:
        """What the finished run has left, None before."""
        return _result_of(self.folder / RESULT)

    def arguments(self, config: StudyConfig, settings: Path) -> list[str]:
        """Return the arguments of `elmo task`."""
        pairs = [f"{name}={_written(value)}" for name, value in self.changes if value != DEFAULT]
        return [self.task, *config.configs, str(settings), *pairs, f"run.dir={self.folder}"]


def _result_of(path: Path) -> SavedResult | None:
    try:
        found: SavedResult = load_json(path, SavedResult, "delete it, to make it again", ConfigError)
    except FileNotFoundError:
        return None
    return found


def plan_study(config: StudyConfig) -> list[StudyRun]:
    """Return all runs of the grid. Raises ConfigError for options that a task does not have."""
    folder = local_path(config.dir, "dir")
    require(bool(config.tasks), "tasks= is missing: name one or more tasks")
    for name, values in config.grid.items():
        require(isinstance(values, list) and bool(values), f"grid: {name} needs a list of values, as in {name}: [1, 2]")
    runs = []
    for task in config.tasks:
        task_schema(task)
        for values in itertools.product(*config.grid.values()):
            changes = tuple(change for pair in zip(config.grid, values, strict=True) for change in _options(*pair))
            name = ",".join(f"{key.rpartition('.')[2]}={_written(value)}" for key, value in changes) or "run"
            runs.append(StudyRun(task, changes, folder / task / name.replace("/", "_")))
    return runs


def study(config: StudyConfig) -> "StudyTable":
    """Do what is missing of the study, and return the table of what is done.

    A stop request stops the runs that are in progress; each saves what it has, and the next call resumes them.
    """
    require(
        not is_torchrun(),
        "elmo study cannot run under torchrun, as each process would do the whole grid; start it without torchrun, "
        "on several machines with part= and parts=",
    )
    runs = plan_study(config)
    folder = local_path(config.dir, "dir")
    folder.mkdir(parents=True, exist_ok=True)
    settings = folder / _SETTINGS
    write_bytes(settings, to_yaml(config.settings).encode())
    for run in runs:
        wanted = _check(run, config, settings)
        if run.result is None:
            _reuse(run, wanted, config.reuse)
    missing = [run for run in runs[config.part :: config.parts] if run.result is None]
    failed: list[StudyRun] = []
    table = StudyTable(runs, failed)
    progress = Progress("study", len(missing), unit="run", describe=lambda *_: f"{len(failed)} failed")
    with ThreadPoolExecutor(config.processes) as pool:
        codes = pool.map(partial(_do, config=config, settings=settings), missing)
        for number, (code, run) in enumerate(zip(codes, missing, strict=True), 1):
            if code == signals.EXIT_PREEMPTED:
                continue
            if code != 0:
                failed.append(run)
            table.write(folder)  # so that `elmo report` shows what is done of a study that takes days
            progress.update(number, is_line_due=True)
    progress.close()
    table.write(folder)
    return table


def _reuse(run: StudyRun, wanted: TaskConfig, studies: Sequence[str]) -> None:
    """Copy the result of a finished run of another study that has the same settings and files, if there is one."""
    for study in studies:
        for path in sorted(local_path(study, "reuse").glob(f"{run.task}/*/{RESULT}")):
            result = _result_of(path)
            if result is not None and not _changes(result, wanted):
                run.folder.mkdir(parents=True, exist_ok=True)
                write_bytes(run.folder / "log.txt", f"the result is that of {path.parent}\n".encode())
                return write_json(run.folder / RESULT, result)
    return None


def _changes(result: SavedResult, wanted: TaskConfig) -> str:
    """Return how a result's settings, or else its files and biLM, differ from the wanted ones, as text."""
    changes = describe_changes(result["settings"], settings_of_scores(wanted))
    return changes or content_changes(result.get("contents", {}), wanted)


def _check(run: StudyRun, config: StudyConfig, settings: Path) -> TaskConfig:
    """Return the settings of the run; raise ConfigError if they are wrong, or if it has a result of other ones."""
    arguments = run.arguments(config, settings)[1:]
    checked: TaskConfig = load(task_schema(run.task), arguments, variant=run.task, variants=TASKS)
    if (result := run.result) is not None:
        changes = _changes(result, checked)
        require(not changes, f"{run.folder} has results of other settings ({changes}); give those, or another dir=")
    return checked


def _do(run: StudyRun, config: StudyConfig, settings: Path) -> int:
    """Do a run in a process of its own; return its exit code, EXIT_PREEMPTED where a stop was requested before."""
    if signals.received() is not None:
        return signals.EXIT_PREEMPTED
    run.folder.mkdir(parents=True, exist_ok=True)
    threads = max(1, usable_cores() // config.processes)
    arguments = [*run.arguments(config, settings), f"training.threads={threads}"]
    command = [sys.executable, "-m", "pipeline.cli", "task", *arguments]
    with (run.folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=partial(end_with_parent, os.getpid()))
        while True:
            try:
                return process.wait(timeout=0.5)
            except subprocess.TimeoutExpired:
                if signals.received() is not None:
                    process.send_signal(signal.SIGTERM)


def _options(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the options of a grid's value: one, or those of a section, as elmo: [{layers: top}, {l2: 1}]."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _options(f"{name}.{key}", item)
    else:
        yield name, value


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class StudyTable:
    """The results of a study: a line for each point of the grid, over its seeds. failed: runs that ended badly."""

    def __init__(self, runs: list[StudyRun], failed: Sequence[StudyRun] = ()) -> None:
        self._runs, self.failed = runs, failed

    def __str__(self) -> str:
        rows = [("task", "", "runs", "dev", "±", "test", "updates until the best")]
        for (task, changes), results in self._points().items():
            shown = " ".join(f"{name.rpartition('.')[2]}={value}" for name, value in changes)
            steps = statistics.mean(result["best_step"] for result in results)
            rows.append((task, shown, str(len(results)), *_dev_and_test(results), f"{steps:,.0f}"))
        lines = [align(rows, text_columns=2)]
        missing = sum(run.result is None for run in self._runs)
        lines += [f"{missing} of {len(self._runs)} runs are missing"] if missing else []
        return "\n".join([*lines, *(f"failed: {run.folder}; its log.txt says why" for run in self.failed)])

    def write(self, folder: Path) -> None:
        """Write results.csv, a line a run, and results.json; keep finished runs of other grids in the same folder."""
        own = {_place(run.folder) for run in self._runs}
        records = [*self._records(), *(record for record in _recorded(folder) if record["run.dir"] not in own)]
        names = list(dict.fromkeys(name for record in records for name in record))
        text = io.StringIO()
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        write_bytes(folder / "results.csv", text.getvalue().encode())
        write_json(folder / RESULTS, records)

    def _points(self) -> dict[tuple[str, tuple[tuple[str, Any], ...]], list[SavedResult]]:
        """Return the results of each task and point of the grid, those of all its seeds together."""
        points: dict[tuple[str, tuple[tuple[str, Any], ...]], list[SavedResult]] = {}
        for run in self._runs:
            if (result := run.result) is not None:
                changes = tuple((name, _written(value)) for name, value in run.changes if name != _SEED)
                points.setdefault((run.task, changes), []).append(result)
        return points

    def _records(self) -> Iterator[dict[str, Any]]:
        """Yield a flat record a finished run: its options, scores, steps, seconds, and the mix of each place."""
        for run in self._runs:
            if (result := run.result) is not None:
                record: dict[str, Any] = {"task": run.task, **dict(run.changes), "run.dir": _place(run.folder)}
                record["main"] = result["main"]
                for part, scores in result["scores"].items():
                    record |= {f"{part}/{name}": value for name, value in scores.items() if "/" not in name}
                record |= {name: result[name] for name in ("best_step", "steps", "seconds")}
                for place, mix in result["learned"].items():
                    record |= {f"{place}/layer{number}": weight for number, weight in enumerate(mix["weights"])}
                    record[f"{place}/gamma"] = mix["gamma"]
                yield record


def _place(folder: Path) -> str:
    """Return a run's folder as seen from its study's."""
    return "/".join(folder.parts[-2:])


def _recorded(folder: Path) -> list[dict[str, Any]]:
    """Return the records of results.json whose runs are still there."""
    try:
        records: list[dict[str, Any]] = load_json(folder / RESULTS, list[dict[str, Any]], "delete it", ConfigError)
    except FileNotFoundError:
        return []
    there = {_place(path.parent) for path in folder.glob(f"*/*/{RESULT}")}
    return [record for record in records if record.get("run.dir") in there]


def _dev_and_test(results: list[SavedResult]) -> tuple[str, str, str]:
    """Return mean and standard deviation on dev, and the mean on test, as text; empty where there is none."""
    dev, test = (
        [result["scores"][part][result["main"]] for result in results if part in result["scores"]]
        for part in ("dev", "test")
    )
    deviation = f"{statistics.stdev(dev):.2f}" if len(dev) > 1 else ""
    return f"{statistics.mean(dev):.2f}", deviation, f"{statistics.mean(test):.2f}" if test else ""
