"""`elmo status`: the state of a run, to be read on a login node. Reads small files only, and disturbs nothing."""

import datetime
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.config.schema import ConfigError
from pipeline.config.terminal import printable
from pipeline.config.watch import StatusConfig
from pipeline.train.run_dir.checkpoint import CheckpointFolder
from pipeline.train.run_dir.lock import is_claimed
from pipeline.train.run_dir.records import End, Restart, Start, read_end, read_restarts, read_start
from pipeline.train.run_dir.tracking import read_metrics

SILENT_SECONDS = 900  # a run without a metric for this long may hang; on another node it counts as killed
_SHOWN_RESTARTS = 3
_DATED_SECONDS = 1e10  # 300 years: later dates may have no name
_QUEUE_FIELDS = ("job", "name", "state", "elapsed", "limit", "nodes", "reason")


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
    restarts: list[Restart] = field(default_factory=list)
    jobs: list[dict[str, str]] = field(default_factory=list)
    other_jobs: int = 0
    next: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "diverged", "refused")


def main(config: StatusConfig) -> int:
    """Print the status of each run; with watch=true repeat it until all runs have ended."""
    while True:
        found = [read_status(Path(os.path.expanduser(run))) for run in config.runs]
        text = "\n".join(json.dumps(asdict(s)) for s in found) if config.json else "\n\n".join(map(render, found))
        clear = "\033[H\033[2J" if config.watch and sys.stdout.isatty() else ""
        print(f"{clear}{printable(text)}", flush=True)
        if not config.watch or all(status.is_over for status in found):
            return 0
        time.sleep(config.every_seconds)


def read_status(run_dir: Path) -> Status:
    """Return the run's status now. Raises ConfigError for a folder that is not a run's, or cannot be read."""
    try:
        if not any((run_dir / name).exists() for name in ("start.json", "run.json", "metrics.jsonl", "code")):
            raise ConfigError(f"{run_dir} is not the folder of a run; give the run.dir= of an `elmo pretrain`")
        return _read(run_dir)
    except OSError as error:
        raise ConfigError(f"{run_dir} cannot be read ({error}); give a run's folder that you may read") from None


def _read(run_dir: Path) -> Status:
    start, end = read_start(run_dir), read_end(run_dir)
    now = time.time()
    status = Status(str(run_dir), "new", start.get("host"), start.get("pid"), total_steps=start.get("total_steps"))
    if "unix_time" in start:
        status.started_seconds_ago = now - start["unix_time"]
    _fill_metrics(status, run_dir, now)
    speed, tokens = status.metrics.get("speed/tokens_per_second"), start.get("tokens_an_epoch")
    status.epoch_hours = tokens / speed / 3600 if speed and tokens else None
    _fill_checkpoints(status, run_dir, now)
    status.restarts = read_restarts(run_dir)
    _fill_queue(status, {start.get("slurm", {}).get("job_id"), *(r.get("job") for r in status.restarts)})
    status.state, status.ended = _find_state(status, run_dir, end), end.get("text")
    status.ended_by = end.get("why")
    if status.state != "running":
        status.eta_hours = None
    status.next = _next(status, start)
    return status


def _fill_metrics(status: Status, run_dir: Path, now: float) -> None:
    steps = read_metrics(run_dir)
    trained = {step: values for step, values in steps.items() if "train/tokens" in values}
    if trained:
        status.step, status.tokens = max(trained), int(trained[max(trained)]["train/tokens"])
        status.silent_seconds = now - (run_dir / "metrics.jsonl").stat().st_mtime
        logged = [step for step in trained if "train/bad_steps" in trained[step]]  # not for a validation or norms alone
        last = status.metrics = trained[max(logged, default=status.step)]
        status.epoch = last.get("train/epoch")
        if "speed/eta_hours" in last:
            status.eta_hours = max(0.0, last["speed/eta_hours"] - status.silent_seconds / 3600)
    rated = {step: values["val/perplexity"] for step, values in steps.items() if "val/perplexity" in values}
    if rated:
        held_out, best = max(rated), min(rated, key=rated.__getitem__)
        values = {name.removeprefix("val/"): n for name, n in steps[held_out].items() if name.startswith("val/")}
        status.held_out, status.best = {"step": held_out} | values, {"step": best, "perplexity": rated[best]}


def _fill_checkpoints(status: Status, run_dir: Path, now: float) -> None:
    records, status.damaged = CheckpointFolder(run_dir / "checkpoints").glance()
    status.checkpoints = len(records)
    for newest in records[-1:]:
        age = now - newest.unix_time
        status.checkpoint = {"step": newest.step, "age_seconds": age, "bytes": newest.bytes, "file": newest.file}
        status.step = max(status.step, newest.step)


def _fill_queue(status: Status, known: set[Any]) -> None:
    """Add the jobs of this run that wait or run, unless squeue fails or takes too long."""
    query = ["squeue", "--noheader", f"--user={os.getuid()}", "--format=%i|%j|%T|%M|%l|%N|%r"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return
    jobs = [dict(zip(_QUEUE_FIELDS, line.split("|"), strict=False)) for line in answer.splitlines() if "|" in line]
    ids = {str(job) for job in known if job is not None}
    status.jobs = [job for job in jobs if job["job"] in ids]
    status.other_jobs = len(jobs) - len(status.jobs)


def _find_state(status: Status, run_dir: Path, end: End) -> str:
    if is_claimed(run_dir):
        return "running"
    if "how" in end:
        return end["how"]
    if status.total_steps is not None and status.checkpoint.get("step", 0) >= status.total_steps:
        return "finished"
    elsewhere = status.host is not None and status.host != socket.gethostname()
    lately = min(t for t in (status.silent_seconds, status.started_seconds_ago, float("inf")) if t is not None)
    if elsewhere and (lately < SILENT_SECONDS or any(job["state"] == "RUNNING" for job in status.jobs)):
        return "running"  # on a node whose locks cannot be seen here
    return "killed" if status.started_seconds_ago is not None or status.step else "new"


def _next(status: Status, start: Start) -> str:
    """Return the next command for the user. start: the content of start.json."""
    run, data = status.run_dir, start.get("data", "DATASET")
    again = f"elmo {start.get('command', 'pretrain')} {run}/config.yaml"
    waiting = next((job for job in status.jobs if job["state"] == "PENDING"), None)
    if status.state == "finished":
        return f"elmo evaluate checkpoint={run} data={data}; elmo plot {run} output={run}/plot.html"
    if status.state == "refused":
        return f"fix what is reported above, then {again}"
    if status.state == "diverged":
        return f"a lower optimizer.lr, from the last good checkpoint: {again} optimizer.lr=..."
    if status.state == "running":
        if (status.silent_seconds or 0) > SILENT_SECONDS:
            return "it may hang: read its log; kill it and start it again: nothing before the checkpoint is lost"
        return f"elmo status {run} --watch; elmo plot {run} output={run}/plot.html"
    if waiting is not None:
        return f"wait: job {waiting['job']} is in the queue ({waiting.get('reason', '')}) and resumes by itself"
    if not start and not status.step:
        return "it starts with its job: squeue --me; if none is there, the job's log (JOBNAME-ID.log) has the reason"
    how = "its log has the stacks of all threads; " if status.state == "hung" else ""
    resumed_by = "sbatch the same job again" if start.get("slurm") else again
    return f"{how}to resume from step {status.checkpoint.get('step', 0):,}: {resumed_by}"


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
    held_out, best = status.held_out, status.best
    parts = []
    if held_out:
        ways = _filled({"perplexity_forward": "forward {:.2f}", "perplexity_backward": "backward {:.2f}"}, held_out)
        both = f" ({', '.join(ways)})" if ways else ""
        parts.append(f"held out {held_out['perplexity']:.2f}{both} at step {int(held_out['step']):,}")
        if best["step"] != held_out["step"]:
            parts.append(f"best {best['perplexity']:.2f} at step {int(best['step']):,}")
    kinds = {"train/sampled_perplexity": "sampled {:.2f}", "train/perplexity": "training {:.2f}"}
    return "; ".join(parts + _filled(kinds, status.metrics))


def _speed(status: Status) -> str:
    forms = {
        "speed/tokens_per_second": "{:,.0f} tokens/s",
        "speed/data_wait_share": "{:.1%} of the time waiting for data",
        "speed/pause_share": "{:.0%} in validations and checkpoints",
        "train/gradient_norm": "gradient norm {:.3g}",
    }
    epoch = [] if status.epoch_hours is None else [f"an epoch in {duration(status.epoch_hours * 3600)}"]
    return ", ".join(_filled(forms, status.metrics) + epoch)


def _filled(forms: dict[str, str], values: dict[str, float]) -> list[str]:
    """Return each form with the value of its name, without those that have no value."""
    return [form.format(values[name]) for name, form in forms.items() if name in values]


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


def _restarts(restarts: list[Restart]) -> str:
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
