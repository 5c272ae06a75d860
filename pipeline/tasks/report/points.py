"""The runs of a study as points: what was varied, and the scores over the seeds."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.tasks.study import DEFAULT

_CHECKPOINT = "elmo.checkpoint"
_KNOWN = {
    "elmo.placement": "placement",
    "elmo.layers": "layers",
    "elmo.l2": "l2",
    "training.share": "share",
    _CHECKPOINT: "encoder",
}
_NOT_VARIED = ("task", "main", "best_step", "steps", "seconds", "run.seed", "run.dir")
_OF_SHARE = ("training.max_epochs", "training.patience")  # a small share of the data needs more epochs


@dataclass(frozen=True)
class Varied:
    """The options of a point; "default": as the task has it. encoder: the name of elmo.checkpoint, "" if not varied.

    others: options that no table of the paper varies.
    """

    placement: str = DEFAULT
    layers: str = DEFAULT
    l2: str = DEFAULT
    share: float = 1.0
    encoder: str = ""
    others: str = ""


@dataclass
class Point:
    study: str
    task: str
    varied: Varied
    runs: list[dict[str, Any]] = field(default_factory=list)

    def scores(self) -> list[float]:
        """Return the task's main score on dev of each seed."""
        return [float(run[f"dev/{run['main']}"]) for run in self.runs]

    @property
    def mean(self) -> float:
        return statistics.mean(self.scores())

    @property
    def deviation(self) -> float:
        """0 for one seed."""
        scores = self.scores()
        return statistics.stdev(scores) if len(scores) > 1 else 0.0

    @property
    def best_step(self) -> float:
        return statistics.mean(run["best_step"] for run in self.runs)

    @property
    def metric(self) -> str:
        """The name of the task's main score."""
        main = str(self.runs[0]["main"])
        return "F1" if main == "f1" else main.replace("_", " ")

    def mix(self, place: str) -> list[float]:
        """Return the mean weight of each layer at a place, [] where ELMo does not enter there."""
        weights: list[list[float]] = []
        for run in self.runs:
            found: list[float] = []
            while (key := f"{place}/layer{len(found)}") in run:
                found.append(float(run[key]))
            weights += [found] if found else []
        same = [w for w in weights if len(w) == len(weights[0])]
        return [statistics.mean(of_layer) for of_layer in zip(*same, strict=True)]


def points_of(study: str, runs: Sequence[dict[str, Any]], encoders: Mapping[str, str] | None = None) -> list[Point]:
    """Return the points of a study, in the order of its runs. encoders: names by `elmo.checkpoint`, of all studies."""
    names = encoder_names(runs) if encoders is None else encoders
    points: dict[tuple[str, Varied], Point] = {}
    for run in runs:
        key = run["task"], _varied(run, names)
        points.setdefault(key, Point(study, *key)).runs.append(run)
    return list(points.values())


def encoder_names(runs: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Return a name for each `elmo.checkpoint`: the end of its path that no other one has."""
    paths = {str(run[_CHECKPOINT]): Path(str(run[_CHECKPOINT])) for run in runs if _CHECKPOINT in run}
    parts = {text: _parts(path) for text, path in paths.items()}
    names = {}
    for text, own in parts.items():
        others = [other for key, other in parts.items() if paths[key] != paths[text]]
        ends = (own[-number:] for number in range(1, len(own) + 1))
        end = next((end for end in ends if all(other[-len(end) :] != end for other in others)), None)
        names[text] = "/".join(end) if end else text
    return names


def _parts(path: Path) -> tuple[str, ...]:
    """Return the parts of a path, without the `model` that many models' folders are named."""
    return path.parts[:-1] if path.name == "model" and len(path.parts) > 1 else path.parts


def _varied(run: dict[str, Any], encoders: Mapping[str, str]) -> Varied:
    values: dict[str, Any] = {}
    others = []
    not_varied = _NOT_VARIED + (_OF_SHARE if "training.share" in run else ())
    for key, value in run.items():
        if key in _KNOWN:
            values[_KNOWN[key]] = str(value)
        elif "/" not in key and key not in not_varied:
            others.append(f"{key.rpartition('.')[2]}={value}")
    share = values.pop("share", DEFAULT)
    try:
        values["share"] = 1.0 if share == DEFAULT else float(share)
    except ValueError:
        others.append(f"share={share}")
    if "encoder" in values:
        values["encoder"] = encoders[values["encoder"]]
    if "l2" in values and values["l2"] != DEFAULT:
        values["l2"] = f"{float(values['l2']):g}" if _is_number(values["l2"]) else values["l2"]
    return Varied(**values, others=" ".join(others))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
