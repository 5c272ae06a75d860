"""Read the curves of a run from its metrics.jsonl: values against steps, tokens and hours of training."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
    return RunCurves(name or run_dir.name or str(run_dir), metrics, _training_hours(metrics))


def _training_hours(metrics: dict[int, dict[str, float]]) -> dict[int, float]:
    """Return the hours of training until each step, from tokens and tokens/s; interpolate steps without tokens/s."""
    known: list[tuple[float, float]] = [(0.0, 0.0)]
    placed = {step: values for step, values in metrics.items() if "train/tokens" in values}
    for values in placed.values():
        speed = values.get("speed/tokens_per_second", 0.0)
        if speed > 0:
            tokens, (before, hours) = values["train/tokens"], known[-1]
            known.append((tokens, hours + (tokens - before) / speed / 3600))
    return {step: _interpolate(known, values["train/tokens"]) for step, values in placed.items()}


def _interpolate(known: Sequence[tuple[float, float]], tokens: float) -> float:
    right = min(bisect_left(known, (tokens, 0.0)), len(known) - 1)
    (x1, y1), (x0, y0) = known[right], known[max(right - 1, 0)]
    return y1 if x1 <= x0 else y0 + (y1 - y0) * min(1.0, (tokens - x0) / (x1 - x0))


def thin(points: Points) -> Points:
    """Return at most _MAX_POINTS points, each the mean of consecutive ones; the last point stays as it is."""
    size = -(-len(points) // _MAX_POINTS)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points) - 1, size)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    return [*means, points[-1]]
