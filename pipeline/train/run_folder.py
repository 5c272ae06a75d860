"""Whose a run's folder is: what a resumed run must share with its past, and who may write there now."""

import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from pathlib import Path
from typing import IO, Any

from data_prep.files import write_bytes, write_json
from data_prep.shards import Dataset
from pipeline import __version__
from pipeline.config import ConfigError, PretrainConfig, to_dict
from pipeline.read_config import to_yaml
from pipeline.train.facts import read_facts

IDENTITY_VERSION = 2  # raised with each change of what a run of the same settings reads or draws
_SHOWN_CHARACTERS = 40
_CLAIM_SECONDS = 600.0  # a rank 0 that does not come up by then has ended, and its launcher ends the others
_LOCK_TRIES = 3


class TakenOver(Exception):
    """A later start of the same run has the folder: this process may not write there any more."""


def run_identity(config: PretrainConfig, dataset: Dataset, vocab_size: int) -> dict[str, Any]:
    """What makes a run this run; everything else may change from one start to the next."""
    settings = to_dict(config)
    return {
        "version": IDENTITY_VERSION,
        "dataset": dataset.fingerprint,
        "data.vocab_size": vocab_size,
        "data.lanes": config.data.lanes,
        "data.window": config.data.window,
        "data.order": config.data.order,
        "run.seed": config.run.seed,
        "optimizer.name": config.optimizer.name,
        **{f"{part}.{key}": value for part in ("model", "softmax") for key, value in settings[part].items()},
    }


def check_identity(run_dir: Path, identity: dict[str, Any]) -> None:
    """Raises ConfigError that names what differs, if the folder holds another run."""
    path = run_dir / "run.json"
    if not path.exists():
        return
    before = json.loads(path.read_text())["identity"]
    version, now = before.get("version", 1), identity.get("version", 1)
    if version != now:
        raise ConfigError(
            f"run.dir={run_dir} holds a run of version {version}, but this program trains runs of version {now}, which "
            "draw other candidates; resume it with the elmo-pipeline that started it, or give another run.dir"
        )
    names = sorted(k for k in before.keys() | identity.keys() if before.get(k) != identity.get(k))
    if names:
        changes = "; ".join(f"{n}: {_short(before.get(n))} there, {_short(identity.get(n))} now" for n in names)
        raise ConfigError(
            f"run.dir={run_dir} holds a run that cannot be gone on with ({changes}); "
            "give the old values, or another run.dir for another run"
        )


class Writer:
    """The right to write a run's folder, as long as it is open and no later start of the same job took it."""

    def __init__(self, run_dir: Path, lock: IO[str]) -> None:
        self._path, self._lock, self._token = run_dir / "writer.json", lock, secrets.token_hex(8)
        os.register_at_fork(after_in_child=lock.close)  # loader workers may outlive a kill -9 of this process
        write_json(
            self._path, {"token": self._token, "host": socket.gethostname(), "unix_time": time.time(), **_incarnation()}
        )

    def is_current(self) -> bool:
        try:
            return bool(json.loads(self._path.read_text())["token"] == self._token)
        except (OSError, ValueError, KeyError):  # a file system that does not answer is no successor
            return True

    def check(self) -> None:
        """Raises TakenOver before anything is written that a successor would read."""
        if not self.is_current():
            raise TakenOver(f"{self._path.parent} is written by a later start of this run; nothing was written")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()


def claim(run_dir: Path, identity: dict[str, Any], config: PretrainConfig) -> Writer:
    """The folder is this process's until the writer is closed; it says whose run it is, and with what config.

    Raises ConfigError if another process holds it, unless that is an earlier start of the same Slurm job: its machine
    may be cut off, and still train.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = (run_dir / "lock").open("a")
    if not _take(lock) and not _is_earlier_start(run_dir / "writer.json"):
        lock.close()
        raise ConfigError(f"run.dir={run_dir} is being trained by another process; wait for it or stop it")
    if not (run_dir / "run.json").exists():
        write_json(run_dir / "run.json", {"identity": identity, "version": __version__})
    write_bytes(run_dir / "config.yaml", to_yaml(config).encode())
    return Writer(run_dir, lock)


def _take(lock: IO[str]) -> bool:
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.1)  # `elmo status` may hold it for a moment
    return False


def is_claimed(run_dir: Path) -> bool:
    """Whether a process of this machine trains there; on a file system that shares locks, of any."""
    path = run_dir / "lock"
    if not path.exists():
        return False
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def await_claim(run_dir: Path) -> None:
    """Rank 0 of this job step has the folder, so that no earlier start changes what the ranks are about to read."""
    deadline = time.monotonic() + _CLAIM_SECONDS
    while _incarnation()["job"] is not None and time.monotonic() < deadline:
        holder = read_facts(run_dir / "writer.json")
        if {name: holder.get(name) for name in _incarnation()} == _incarnation():
            return
        time.sleep(0.2)


def _incarnation() -> dict[str, Any]:
    """Which step of which start of which Slurm job this is; job is None without Slurm."""
    environment = os.environ
    restart = int(environment.get("SLURM_RESTART_COUNT", 0))
    return {"job": environment.get("SLURM_JOB_ID"), "restart": restart, "step": environment.get("SLURM_STEP_ID")}


def _is_earlier_start(path: Path) -> bool:
    me = _incarnation()
    try:
        holder = json.loads(path.read_text())
        return me["job"] is not None and holder["job"] == me["job"] and holder["restart"] < me["restart"]
    except (OSError, ValueError, KeyError):
        return False


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS // 2] + "…"
