"""Records in a run's folder for programs that watch the run, which need no torch, no lock and no server.

start.json: the last start, where and when. end.json: how that start ended; absent while it trains, or if it was killed.
restarts.jsonl: a line for each time that a job was queued again; the job's script writes it.
These files only inform: a damaged one is left out with a warning.
"""

import contextlib
import logging
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from annotated_types import Ge, Le
from typing_extensions import TypedDict

from data_prep.dataset.files import DataError, write_json
from data_prep.dataset.typed_json import Count, load_json, parse_json

log = logging.getLogger(__name__)

_SLURM = (
    "JOB_ID",
    "JOB_NAME",
    "JOB_PARTITION",
    "JOB_NUM_NODES",
    "NTASKS",
    "JOB_NODELIST",
    "RESTART_COUNT",
    "CLUSTER_NAME",
)
_MAX_LINE_BYTES = 1 << 20  # a step's metrics take less than 10 KiB

UnixTime = Annotated[float, Ge(0), Le(1e11)]


class Start(TypedDict, total=False):
    """start.json."""

    unix_time: UnixTime
    host: str
    pid: Count
    slurm: dict[str, str]
    step: Count
    command: Literal["pretrain", "finetune"]
    data: str
    dataset_fingerprint: str
    git_revision: str | None
    version: str
    parameters: Count
    softmax_parameters: Count
    total_steps: Count
    tokens_per_step: Count
    tokens_an_epoch: Count
    auto: dict[str, str]


class End(TypedDict, total=False):
    """end.json."""

    unix_time: UnixTime
    how: Literal["finished", "stopped", "diverged", "refused", "hung"]
    why: str
    text: str
    slurm: dict[str, str]


class Restart(TypedDict, total=False):
    """A line of restarts.jsonl."""

    unix_time: UnixTime
    job: str
    restart: Count
    reason: str
    step: Count
    crash: str


def slurm_facts() -> dict[str, str]:
    """Return job_id, job_name, ... of the job that this process belongs to; {} outside Slurm."""
    return {name.lower(): os.environ[f"SLURM_{name}"] for name in _SLURM if f"SLURM_{name}" in os.environ}


def write_start(run_dir: Path, step: int, facts: dict[str, Any]) -> None:
    """Write `facts`, host and time to start.json, and remove end.json; a full disk is ignored."""
    where = {"unix_time": time.time(), "host": socket.gethostname(), "pid": os.getpid(), "slurm": slurm_facts()}
    with contextlib.suppress(OSError):
        (run_dir / "end.json").unlink(missing_ok=True)
        write_json(run_dir / "start.json", where | {"step": step} | facts)


def write_end(run_dir: Path, how: str, text: str, why: str = "") -> None:
    """Write end.json. how: finished, stopped, diverged, refused or hung. why: the signal or file that stopped it."""
    with contextlib.suppress(OSError):
        end = {"unix_time": time.time(), "how": how, "why": why, "text": text, "slurm": slurm_facts()}
        write_json(run_dir / "end.json", end)


def read_facts(path: Path, schema: Any = dict[str, Any]) -> Any:
    """Return the JSON object at `path`, of type `schema`; {} if it is missing or damaged."""
    try:
        return load_json(path, schema, "it is left out")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, DataError) as error:
        log.warning("%s", error)
        return {}


def read_start(run_dir: Path) -> Start:
    """Return the content of start.json, {} if it cannot be read."""
    return cast(Start, read_facts(run_dir / "start.json", Start))


def read_end(run_dir: Path) -> End:
    """Return the content of end.json, {} if it cannot be read."""
    return cast(End, read_facts(run_dir / "end.json", End))


def read_restarts(run_dir: Path) -> list[Restart]:
    """Return the lines of restarts.jsonl, oldest first."""
    return list(read_lines(run_dir / "restarts.jsonl", Restart))


def read_lines(path: Path, schema: Any) -> Iterator[Any]:
    """Yield the value of each line of a JSON Lines file, if there is one; one warning counts the damaged lines."""
    lines, damaged, first = 0, 0, ""
    try:
        with path.open("rb") as file:
            for line in iter(partial(file.readline, _MAX_LINE_BYTES), b""):
                lines += 1
                try:
                    yield parse_json(line, schema, f"line {lines}", "it is left out")
                except DataError as error:
                    if line.endswith(b"\n") or len(line) == _MAX_LINE_BYTES:  # else the line is being written
                        damaged, first = damaged + 1, first or str(error)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        log.warning("%s cannot be read any further (%s): %d lines were", path, error.strerror, lines)
    if damaged:
        log.warning("%s: %d of %d lines are damaged and left out; the first: %s", path, damaged, lines, first)


def git_revision() -> str | None:
    """Return the git revision of this code, None outside a clone of this project."""
    root = Path(__file__).resolve().parents[3]
    if (root / "REVISION").exists():  # code that was pinned for a job
        return (root / "REVISION").read_text().strip()
    if not ((root / ".git").exists() and _is_this_project(root / "pyproject.toml")):
        return None  # git would describe an outer repository, for example one around a virtual environment
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
