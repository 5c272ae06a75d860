"""`elmo status`: the state of a run, to be read on a login node. Reads small files only, and disturbs nothing."""

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.apply.watch.status_text import Status, render
from pipeline.config.schema import ConfigError
from pipeline.config.terminal import printable
from pipeline.config.watch import StatusConfig
from pipeline.train.run_dir.checkpoint import CheckpointFolder, Record
from pipeline.train.run_dir.lock import is_claimed
from pipeline.train.run_dir.records import End, Start, read_end, read_restarts, read_start
from pipeline.train.run_dir.tracking import read_metrics

SILENT_SECONDS = 900  # a run without a metric for this long may hang; on another node it counts as killed
_QUEUE_FIELDS = ("job", "name", "state", "elapsed", "limit", "nodes", "reason")


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
        if not any((run_dir / name).exists() for name in ("start.json", "run.json", "metrics.jsonl")):
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
    status.state, status.ended = _state(status, run_dir, end), end.get("text")
    status.ended_by = end.get("why")
    if status.state != "running":
        status.eta_hours = None
    status.next = _next(status, start, bool(start.get("slurm")))
    return status


def _fill_metrics(status: Status, run_dir: Path, now: float) -> None:
    steps = read_metrics(run_dir)
    trained = {step: values for step, values in steps.items() if "train/tokens" in values}
    if trained:
        status.step = max(trained)
        last = status.metrics = trained[status.step]
        status.epoch, status.tokens = last.get("train/epoch"), int(last["train/tokens"])
        status.silent_seconds = now - (run_dir / "metrics.jsonl").stat().st_mtime
        if "speed/eta_hours" in last:
            status.eta_hours = max(0.0, last["speed/eta_hours"] - status.silent_seconds / 3600)
    held_out = {step: values for step, values in steps.items() if "val/perplexity" in values}
    if held_out:
        rated = {step: values["val/perplexity"] for step, values in held_out.items()}
        last_step, best_step = max(rated), min(rated, key=lambda step: rated[step])
        status.held_out = {"step": last_step} | {
            name.removeprefix("val/"): value for name, value in held_out[last_step].items() if name.startswith("val/")
        }
        status.best = {"step": best_step, "perplexity": rated[best_step]}


def _fill_checkpoints(status: Status, run_dir: Path, now: float) -> None:
    records, status.damaged = CheckpointFolder(run_dir / "checkpoints").glance()
    status.checkpoints = len(records)
    if records:
        newest: Record = records[-1]
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


def _state(status: Status, run_dir: Path, end: End) -> str:
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


def _next(status: Status, start: Start, is_job: bool) -> str:
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
    how = "its log has the stacks of all threads; " if status.state == "hung" else ""
    resumed_by = "sbatch the same job again" if is_job else again
    return f"{how}to resume from step {status.checkpoint.get('step', 0):,}: {resumed_by}"
