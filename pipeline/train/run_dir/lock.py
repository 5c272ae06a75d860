"""The owner of a run's folder: which settings a resumed run must keep, and which process may write there now."""

import contextlib
import logging
import os
import secrets
import socket
import time
from pathlib import Path
from typing import IO, Any

from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.files import lock_file, write_bytes, write_json
from data_prep.dataset.shards import Dataset
from data_prep.dataset.typed_json import Count, load_json
from pipeline.config.load import to_yaml
from pipeline.config.schema import ConfigError, PretrainConfig, to_dict
from pipeline.train.cluster.slurm_env import job_start
from pipeline.train.cluster.torchrun_env import is_torchrun
from pipeline.train.outcome import CheckpointUnseen
from pipeline.train.run_dir.checkpoint import CheckpointFolder, Record, load_checkpoint
from pipeline.train.run_dir.mirror import Mirror
from pipeline.train.run_dir.records import UnixTime, read_facts
from pipeline.version import __version__

log = logging.getLogger(__name__)
IDENTITY_VERSION = 2  # raised when a run with the same settings would read or draw something else
_SHOWN_CHARACTERS = 40
_CLAIM_SECONDS = 600.0  # rank 0 has ended if it takes longer; its launcher then ends the other ranks
_UNSEEN_SECONDS = 120.0  # a network file system shows another machine's files after a minute at the latest
_LOCK_TRIES = 3
_TORCHRUN_LOCK_TRIES = 600  # torchrun starts again at once, and gives ranks on other machines 30 s to end


class RunFile(TypedDict):
    """run.json: the identity of the run. version: of elmo-pipeline at the run's first start."""

    identity: dict[str, Any]
    version: str


class Holder(TypedDict):
    """writer.json: the process that writes the folder. resumes_from: file of a checkpoint, "" without one."""

    token: str
    host: NotRequired[str]
    unix_time: NotRequired[UnixTime]
    job: NotRequired[str | None]
    restart: NotRequired[Count]
    step: NotRequired[str | None]
    resumes_from: NotRequired[str]


class TakenOver(Exception):
    """A later start of the same run owns the folder: this process may not write there any more."""


def run_identity(config: PretrainConfig, dataset: Dataset, vocab_size: int) -> dict[str, Any]:
    """Return the settings that must stay the same at each start of a run; all others may change."""
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
    """Raise ConfigError that names what differs, if the folder holds another run."""
    before = _identity_of(run_dir)
    if before is None:
        return
    version, now = before.get("version", 1), identity.get("version", 1)
    if version != now:
        raise ConfigError(
            f"run.dir={run_dir} holds a run of version {version}, but this program trains runs of version {now}, which "
            "draw other candidates; resume it with the elmo-pipeline that started it, or give another run.dir"
        )
    changes = _changes(before, identity)
    if changes:
        raise ConfigError(
            f"run.dir={run_dir} holds a run that cannot be resumed with these settings ({changes}); "
            "give the old values, or another run.dir for another run"
        )


def fetch_from(mirror: Mirror, identity: dict[str, Any]) -> None:
    """Fetch the newest checkpoint into the run's folder, if the mirror has a newer one.

    Raises ConfigError if the mirror holds another run, DataError if it cannot be read.
    """
    there = mirror.read_run(RunFile)
    changes = "" if there is None else _changes(there["identity"], identity)
    if changes:
        raise ConfigError(
            f"checkpoint.mirror={mirror.url} holds another run than these settings describe ({changes}); give the old "
            "values, or another URL for another run"
        )
    mirror.fetch()


def check_same_run(path: Path, content: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise ConfigError that names what differs, if the checkpoint at `path` is that of another run."""
    changes = _changes(content["elmo"]["identity"], identity)
    if changes:
        raise ConfigError(
            f"{path} is a checkpoint of another run ({changes}); move it and its .json to another folder: the run then "
            "resumes from the checkpoint before it"
        )


def _identity_of(run_dir: Path) -> dict[str, Any] | None:
    """Return the identity of the run that the folder holds, None where it holds none.

    run.json holds the identity. Where run.json was lost or damaged, as by a power cut, the newest whole checkpoint
    holds the identity too. Raises ConfigError where run.json is damaged and there is no such checkpoint.
    """
    path, fault = run_dir / "run.json", ""
    try:
        return _read_run(path)["identity"]
    except FileNotFoundError:
        pass
    except ConfigError as error:
        fault = str(error)
    folder = CheckpointFolder(run_dir / "checkpoints")
    newest = folder.to_resume_from()
    if newest is not None:
        log.warning("%s; the run's identity is read from %s instead", fault or f"{path} is missing", newest.file)
        identity: dict[str, Any] = load_checkpoint(folder.path(newest))["elmo"]["identity"]
        return identity
    if fault:
        raise ConfigError(f"{fault}, or remove it to start the run again from step 0, as there is no checkpoint")
    return None


def _read_run(path: Path) -> RunFile:
    run: RunFile = load_json(path, RunFile, "put back a copy of it", ConfigError)
    return run


def version_of(run_dir: Path) -> str | None:
    """Return the version of elmo-pipeline that began a run, None if run.json cannot be read."""
    try:
        return _read_run(run_dir / "run.json")["version"]
    except (OSError, ConfigError):
        return None


def record_run(run_dir: Path, identity: dict[str, Any], config: PretrainConfig) -> None:
    """Write run.json, unless a sound one is there, and config.yaml with the settings of this start."""
    if version_of(run_dir) is None:
        write_json(run_dir / "run.json", RunFile(identity=identity, version=__version__))
    write_bytes(run_dir / "config.yaml", to_yaml(config).encode())


class Writer:
    """The right to write a run's folder, until it is closed or a later start of the same job takes the folder."""

    def __init__(self, run_dir: Path, lock: IO[str]) -> None:
        self._path, self._lock, self._token = run_dir / "writer.json", lock, secrets.token_hex(8)
        os.register_at_fork(after_in_child=lock.close)  # loader workers may outlive a kill -9 of this process
        process = {"token": self._token, "host": socket.gethostname(), "unix_time": time.time()}
        self._facts = process | job_start()
        write_json(self._path, self._facts)

    def announce(self, checkpoint: str) -> None:
        """Tell the other ranks from which checkpoint's file this start resumes, "" for none. Raises TakenOver."""
        self.check()
        write_json(self._path, self._facts | {"resumes_from": checkpoint})

    def is_current(self) -> bool:
        try:
            holder: Holder = load_json(self._path, Holder, "it is left out")
        except (OSError, ValueError):  # no sign of a later start
            return True
        return holder["token"] == self._token

    def check(self) -> None:
        """Raise TakenOver if a later start owns the folder; call it before each write that a later start would read."""
        if not self.is_current():
            raise TakenOver(f"{self._path.parent} is written by a later start of this run; nothing was written")

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()


def claim(run_dir: Path) -> Writer:
    """Take the folder for this process until the returned writer is closed.

    Raises ConfigError if another process holds the folder. An earlier start of the same Slurm job loses the folder: its
    machine may be cut off from the network, and still train.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = (run_dir / "lock").open("a")
    if not _take(lock) and not _is_earlier_start(run_dir / "writer.json"):
        lock.close()
        raise ConfigError(f"run.dir={run_dir} is being trained by another process; wait for it or stop it")
    return Writer(run_dir, lock)


def _take(lock: IO[str]) -> bool:
    for _ in range(_TORCHRUN_LOCK_TRIES if is_torchrun() else _LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            lock_file(lock)
            return True
        time.sleep(0.1)  # `elmo status` may hold the lock for a moment
    return False


def is_claimed(run_dir: Path) -> bool:
    """Return whether a process of this machine trains there; any machine, if the file system shares locks."""
    path = run_dir / "lock"
    if not path.exists():
        return False
    with path.open() as lock:
        try:
            lock_file(lock, shared=True)
        except BlockingIOError:
            return True
    return False


def choose_checkpoint(checkpoints: CheckpointFolder, run_dir: Path, writer: Writer | None) -> Record | None:
    """Return the newest whole checkpoint as rank 0 sees it, None if there is none. writer: None on other ranks.

    An earlier start that is cut off from Slurm may still finish a checkpoint, and a file system may show it late: each
    rank for itself could take another one for the newest. Raises CheckpointUnseen, TakenOver.
    """
    if writer is not None:
        newest = checkpoints.to_resume_from()
        writer.announce(newest.file if newest is not None else "")
        return newest
    chosen = _await_choice(run_dir)
    if not chosen:
        return None if chosen == "" else checkpoints.to_resume_from()
    deadline = time.monotonic() + _UNSEEN_SECONDS
    while (seen := checkpoints.whole(chosen)) is None:
        if time.monotonic() > deadline:
            raise CheckpointUnseen(
                f"{checkpoints.folder / chosen}, from which rank 0 resumes, is not whole on {socket.gethostname()}; "
                "run.dir must be one folder on all machines: check that file system there, and resume"
            )
        time.sleep(0.2)
    return seen


def _await_choice(run_dir: Path) -> str | None:
    """Wait until rank 0 of this job step owns the folder; return what it announced.

    None: unknown, as outside of Slurm, where rank 0 starts the other ranks or an agent ends all ranks of a start.
    """
    deadline = time.monotonic() + _CLAIM_SECONDS
    start = job_start()
    while start["job"] is not None and time.monotonic() < deadline:
        holder = read_facts(run_dir / "writer.json", Holder)
        if {name: holder.get(name) for name in start} == start and "resumes_from" in holder:
            return str(holder["resumes_from"])
        time.sleep(0.2)
    return None


def _is_earlier_start(path: Path) -> bool:
    start, holder = job_start(), read_facts(path, Holder)
    return (
        start["job"] is not None and holder.get("job") == start["job"] and holder.get("restart", 0) < start["restart"]
    )


def _changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return in words how two identities differ, "" if they are the same."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return "; ".join(f"{n}: {_short(before.get(n))} there, {_short(now.get(n))} now" for n in names)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS // 2] + "…"
