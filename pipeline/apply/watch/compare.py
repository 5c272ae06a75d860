"""`elmo compare`: the settings that differ between runs, and their results, side by side."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import indent
from typing import Any

from pipeline.apply.watch.curves import training_hours
from pipeline.apply.watch.plot import names
from pipeline.apply.watch.status import duration, read_status
from pipeline.config.load import flat
from pipeline.config.schema import ConfigError
from pipeline.config.terminal import align
from pipeline.config.watch import CompareConfig
from pipeline.train.run_dir.checkpoint import CheckpointFolder
from pipeline.train.run_dir.records import read_start
from pipeline.train.run_dir.tracking import read_metrics

_FACTS = ("dataset_fingerprint", "git_revision", "parameters", "softmax_parameters", "total_steps", "tokens_an_epoch")
_FIGURES = (
    *("train/tokens", "train/epoch", "train/sampled_perplexity", "train/perplexity"),
    *("val/perplexity", "val/perplexity_forward", "val/perplexity_backward"),
)
_PLACES = ("run.dir", "run.name")  # always differ
_MAX_CELL = 44


def main(config: CompareConfig) -> str:
    """Return the comparison as text, with json=true as JSON."""
    columns = names(config.runs)
    folders = [Path(os.path.expanduser(run)) for run in config.runs]
    try:
        settings = dict(zip(columns, map(read_settings, folders), strict=True))
        figures = dict(zip(columns, map(final_figures, folders), strict=True))
    except OSError as error:
        raise ConfigError(f"a run cannot be read ({error}); compare folders that you may read") from None
    different = differences(settings)
    if config.json:
        return json.dumps({"differences": different, "final": figures}, indent=1)
    title = "Settings that differ" if different else "No setting differs"
    parts = [f"{title}\n{_table(columns, different)}" if different else title]
    rows = {row: {column: figures[column].get(row) for column in columns} for row in _row_names(figures)}
    return "\n\n".join([*parts, f"Results\n{_table(columns, rows)}"])


def read_settings(run_dir: Path) -> dict[str, Any]:
    """Return all settings of a run by dotted name, and facts to compare."""
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run_dir} is not the folder of a run: it holds no config.yaml; give a run.dir=")
    facts = {name: value for name, value in read_start(run_dir).items() if name in _FACTS}
    return flat(_read_yaml(path)) | facts


def _read_yaml(path: Path) -> dict[str, Any]:
    """Return the settings in a run's config.yaml, which uses no anchors."""
    import yaml

    try:
        text = path.read_bytes().decode()
        plain = all(getattr(event, "anchor", None) is None for event in yaml.parse(text))
        settings = yaml.safe_load(text) if plain else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        settings, fault = None, " ".join(str(error).split())[:200]
    else:
        fault = "no settings by name"
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} is damaged ({fault}); each start of that run writes it again") from None
    return settings


def differences(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the value of each setting in each run, for settings that differ."""
    keys = dict.fromkeys(key for values in settings.values() for key in values if key not in _PLACES)
    rows = {key: {run: values.get(key) for run, values in settings.items()} for key in keys}
    return {key: row for key, row in rows.items() if any(value != next(iter(row.values())) for value in row.values())}


def final_figures(run_dir: Path) -> dict[str, float | int | str]:
    """Return the last step of a run, and its last and best figures."""
    metrics = dict(sorted(read_metrics(run_dir).items()))
    if not metrics:
        raise ConfigError(f"{run_dir} has logged no metrics yet; compare runs that have trained")
    figures: dict[str, float | int | str] = {"step": max(metrics)}
    for name in _FIGURES:
        found = [values[name] for values in metrics.values() if name in values]
        if found:
            figures[name] = int(found[-1]) if name == "train/tokens" else found[-1]
    rated = {values["val/perplexity"]: step for step, values in metrics.items() if "val/perplexity" in values}
    if rated:
        figures |= {"best val/perplexity": min(rated), "at step": rated[min(rated)]}
    hours = training_hours(metrics)
    timed = [step for step in hours if metrics[step].get("speed/tokens_per_second", 0) > 0 and hours[step] > 0]
    for last in timed[-1:]:
        seconds = 3600 * hours[last]
        figures |= {"mean tokens/s": metrics[last]["train/tokens"] / seconds, "training time": duration(seconds)}
    bad = [values["train/bad_steps"] for values in metrics.values() if "train/bad_steps" in values]
    figures |= {"bad steps": int(max(bad, default=0)), "state": read_status(run_dir).state}
    records, _ = CheckpointFolder(run_dir / "checkpoints").glance()
    return figures | ({"last checkpoint": records[-1].step} if records else {})


def _row_names(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for values in figures.values() for name in values))


def _table(columns: list[str], rows: Mapping[str, Mapping[str, Any]]) -> str:
    cells = [["", *columns], *([name, *(_cell(row[column]) for column in columns)] for name, row in rows.items())]
    return indent(align(cells), "  ")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    text = f"{value:,}" if type(value) is int else "-" if value is None else str(value)
    return text if len(text) <= _MAX_CELL else f"{text[: _MAX_CELL // 2 - 1]}…{text[-_MAX_CELL // 2 :]}"
