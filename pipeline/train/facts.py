"""What a run says of itself in its folder, for those who look at it from outside: no torch, no lock, no server.

start.json: what was started last, where and when. end.json: how that ended, absent while it trains or where it was
killed. restarts.jsonl: a line for each time that a job was put back into the queue, written by the job's script.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from data_prep.files import write_json

_SLURM = ("JOB_ID", "JOB_NAME", "JOB_PARTITION", "JOB_NUM_NODES", "NTASKS", "JOB_NODELIST", "RESTART_COUNT",
          "CLUSTER_NAME")  # fmt: skip


def slurm_facts() -> dict[str, str]:
    """job_id, job_name, ... of the job this process belongs to; empty outside Slurm."""
    return {name.lower(): os.environ[f"SLURM_{name}"] for name in _SLURM if f"SLURM_{name}" in os.environ}


def write_start(run_dir: Path, step: int, facts: dict[str, Any]) -> None:
    """start.json holds `facts`, where and when; a full disk is no reason not to train."""
    where = {"unix_time": time.time(), "host": socket.gethostname(), "pid": os.getpid(), "slurm": slurm_facts()}
    with contextlib.suppress(OSError):
        (run_dir / "end.json").unlink(missing_ok=True)
        write_json(run_dir / "start.json", where | {"step": step} | facts)


def write_end(run_dir: Path, how: str, text: str, why: str = "") -> None:
    """how: finished, stopped, diverged, refused or hung. why it was stopped: a signal's name, or the file `stop`."""
    with contextlib.suppress(OSError):
        end = {"unix_time": time.time(), "how": how, "why": why, "text": text, "slurm": slurm_facts()}
        write_json(run_dir / "end.json", end)


def read_facts(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none that can be read."""
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def read_restarts(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of restarts.jsonl, oldest first; one that a kill cut short is passed over."""
    restarts = []
    with contextlib.suppress(OSError):
        for line in (run_dir / "restarts.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                restarts += [value] if isinstance(value, dict) else []
    return restarts


def git_revision() -> str | None:
    """Return that of the code that runs, None outside a clone of this project."""
    root = Path(__file__).resolve().parents[2]
    if (root / "REVISION").exists():  # code that a job was submitted with
        return (root / "REVISION").read_text().strip()
    if not ((root / ".git").exists() and _is_this_project(root / "pyproject.toml")):
        return None  # git would answer for a repository around it, as around a virtual environment
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _is_this_project(pyproject: Path) -> bool:
    try:
        return 'name = "elmo-pipeline"' in pyproject.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return False
