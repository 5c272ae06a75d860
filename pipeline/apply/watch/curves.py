"""Read the curves of a run from its metrics.jsonl: values against steps, tokens and hours of training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.config.schema import ConfigError
from pipeline.train.run_dir.tracking import read_metrics

_MAX_POINTS = 1500  # of a drawn curve: more than it has pixels

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class RunCurves:
    """The metrics of one run. hours: of training until each step; pauses, validation and saving are left out."""

    name: str
    metrics: dict[int, dict[str, float]]
    hours: dict[int, float]

    def of(self, metric: str, against: str = "step") -> Points:
        """Return the points of a metric against step, tokens or hours, in order; at most _MAX_POINTS."""
        needed = {metric} if against == "step" else {metric, "train/tokens"}
        steps = [step for step, values in self.metrics.items() if needed <= values.keys()]
        return thin([(self._place(step, against), self.metrics[step][metric]) for step in steps])

    def _place(self, step: int, against: str) -> float:
        if against == "tokens":
            return self.metrics[step]["train/tokens"]
        return self.hours[step] if against == "hours" else float(step)


def read_curves(run_dir: Path, name: str | None = None) -> RunCurves:
    """Return the curves of a run. Raises ConfigError if the run has logged nothing."""
    metrics = dict(sorted(read_metrics(run_dir).items()))
    if not metrics:
        raise ConfigError(f"{run_dir} has no metrics to draw; give the folder of a run that has trained")
    return RunCurves(name or run_dir.name or str(run_dir), metrics, training_hours(metrics))


def training_hours(metrics: dict[int, dict[str, float]]) -> dict[int, float]:
    """Return the hours of training until each step, from tokens and tokens/s; interpolate steps without tokens/s."""
    known_tokens, known_hours = [0.0], [0.0]
    placed = {step: values for step, values in metrics.items() if "train/tokens" in values}
    for values in placed.values():
        speed = values.get("speed/tokens_per_second", 0.0)
        if speed > 0:
            known_hours.append(known_hours[-1] + (values["train/tokens"] - known_tokens[-1]) / speed / 3600)
            known_tokens.append(values["train/tokens"])
    hours = np.interp([values["train/tokens"] for values in placed.values()], known_tokens, known_hours)
    return dict(zip(placed, hours.tolist(), strict=True))


def thin(points: Points) -> Points:
    """Return at most _MAX_POINTS points, each the mean of consecutive ones; the last point stays as it is."""
    size = -(-len(points) // _MAX_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points) - 1, size)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    return [*means, points[-1]]
