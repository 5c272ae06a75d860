"""A run's status as text: one line a topic."""

import datetime
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.train.run_dir.records import Restart

_SHOWN_RESTARTS = 3
_DATED_SECONDS = 1e10  # 300 years: later dates may have no name


@dataclass
class Status:
    """state: new, running, finished, stopped (with a checkpoint), diverged, refused, killed (without a report).

    Times are in seconds or as named, ages are from now. None or empty: not known.
    """

    run_dir: str
    state: str
    host: str | None = None
    pid: int | None = None
    started_seconds_ago: float | None = None
    silent_seconds: float | None = None
    ended: str | None = None
    ended_by: str | None = None
    step: int = 0
    total_steps: int | None = None
    epoch: float | None = None
    tokens: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    held_out: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    eta_hours: float | None = None
    epoch_hours: float | None = None
    checkpoint: dict[str, Any] = field(default_factory=dict)
    checkpoints: int = 0
    damaged: list[str] = field(default_factory=list)
    restarts: "list[Restart]" = field(default_factory=list)
    jobs: list[dict[str, str]] = field(default_factory=list)
    other_jobs: int = 0
    next: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "diverged", "refused")


def render(status: Status) -> str:
    rows = [
        ("run", f"{status.run_dir}: {_state(status)}"),
        ("progress", _progress(status)),
        ("perplexity", _perplexity(status)),
        ("speed", _speed(status)),
        ("ends", _ends(status)),
        ("checkpoint", _checkpoint(status)),
        ("DAMAGED", "; ".join(status.damaged)),
        ("restarts", _restarts(status.restarts)),
        ("queue", _queue(status)),
        ("next", status.next),
    ]
    return "\n".join(f"{name:12}{value}" for name, value in rows if value)


def duration(seconds: float) -> str:
    """Return a duration, rounded: 45 s, 12 min, 3.4 h, 5.2 days."""
    for size, unit, limit in ((1, "s", 90), (60, "min", 90), (3600, "h", 48)):
        if seconds < limit * size:
            return f"{seconds / size:.1f} {unit}" if unit == "h" else f"{max(0.0, seconds) / size:.0f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _state(status: Status) -> str:
    if status.state == "running":
        since = f", started {duration(status.started_seconds_ago)} ago" if status.started_seconds_ago else ""
        quiet = status.silent_seconds or 0.0
        silent = f"; NO METRIC for {duration(quiet)}" if quiet > 900 else ""
        return f"running on {status.host or 'this machine'} (process {status.pid}){since}{silent}"
    if status.state == "killed":
        return f"not running; it ended without a report (killed?) on {status.host or 'some machine'}"
    if status.state == "new":
        return "not started"
    by = f" by {status.ended_by}" if status.ended_by else ""
    return f"{status.state}{by}, {status.ended}" if status.ended else status.state


def _progress(status: Status) -> str:
    total = f" of {status.total_steps:,} ({status.step / status.total_steps:.1%})" if status.total_steps else ""
    parts = [f"step {status.step:,}{total}"]
    if status.epoch is not None:
        parts.append(f"epoch {status.epoch:.2f}")
    if status.tokens is not None:
        parts.append(f"{status.tokens:,} tokens")
    bad = int(status.metrics.get("train/bad_steps", 0))
    return ", ".join(parts) + (f", {bad} BAD STEPS (not finite, dropped)" if bad else "")


def _perplexity(status: Status) -> str:
    parts, held_out = [], status.held_out
    if held_out:
        ways = [
            f"{way} {held_out[key]:.2f}" for way in ("forward", "backward") if (key := f"perplexity_{way}") in held_out
        ]
        both = f" ({', '.join(ways)})" if ways else ""
        parts.append(f"held out {held_out['perplexity']:.2f}{both} at step {int(held_out['step']):,}")
        if status.best["step"] != held_out["step"]:
            parts.append(f"best {status.best['perplexity']:.2f} at step {int(status.best['step']):,}")
    for name, label in (("train/sampled_perplexity", "sampled"), ("train/perplexity", "training")):
        if name in status.metrics:
            parts.append(f"{label} {status.metrics[name]:.2f}")
    return "; ".join(parts)


def _speed(status: Status) -> str:
    values = status.metrics
    parts = []
    if "speed/tokens_per_second" in values:
        parts.append(f"{values['speed/tokens_per_second']:,.0f} tokens/s")
    if "speed/data_wait_share" in values:
        parts.append(f"{values['speed/data_wait_share']:.1%} of the time waiting for data")
    if "train/gradient_norm" in values:
        parts.append(f"gradient norm {values['train/gradient_norm']:.3g}")
    if status.epoch_hours is not None:
        parts.append(f"an epoch in {duration(status.epoch_hours * 3600)}")
    return ", ".join(parts)


def _ends(status: Status) -> str:
    if status.eta_hours is None:
        return ""
    seconds = status.eta_hours * 3600
    at = datetime.datetime.fromtimestamp(time.time() + seconds) if seconds < _DATED_SECONDS else None
    return f"in {duration(seconds)}, {f'{at:%Y-%m-%d %H:%M}, ' if at else ''}at this speed"


def _checkpoint(status: Status) -> str:
    newest = status.checkpoint
    if not newest:
        return "none yet" if status.step else ""
    size = newest["bytes"] / 1e6
    return f"step {newest['step']:,}, {duration(newest['age_seconds'])} ago, {size:,.1f} MB; {status.checkpoints} kept"


def _restarts(restarts: "list[Restart]") -> str:
    if not restarts:
        return ""
    shown = []
    for restart in restarts[-_SHOWN_RESTARTS:]:
        when = restart.get("unix_time")
        ago = f" {duration(time.time() - when)} ago" if when is not None else ""
        job = f", job {restart['job']}" if "job" in restart else ""
        step = f"{restart['step']:,}" if "step" in restart else "?"
        shown.append(f"{restart.get('reason', 'reason not known')} at step {step}{ago}{job}")
    return f"{len(restarts)}; last: " + "; ".join(reversed(shown))


def _queue(status: Status) -> str:
    lines = [
        f"job {job['job']} {job['state']} {job.get('elapsed', '')} of {job.get('limit', '')} "
        f"{job.get('nodes') or job.get('reason', '')}".rstrip()
        for job in status.jobs
    ]
    if status.other_jobs:
        lines.append(f"{status.other_jobs} other {'jobs' if status.other_jobs > 1 else 'job'} of yours")
    return "; ".join(lines)
