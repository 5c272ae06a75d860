"""Checkpoints that are whole or are not there: written aside, hashed, renamed, then recorded.

CHECKPOINTS/step-00001000.ckpt counts once step-00001000.json beside it holds its size and sha256. The file is a
plain `torch.save` dict that loads with weights_only=True; `state_dict` and `optimizer_states` are Lightning's names.
torch is imported where a checkpoint is read or written, so that records can be looked at without it.
"""

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_prep.files import HashingFile, atomic_file, sha256_of, write_json
from data_prep.locations import local_path
from pipeline.config import ConfigError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Record:
    """What is known of a checkpoint without opening it. val_perplexity: the last one before it was saved."""

    step: int
    file: str
    bytes: int
    sha256: str
    val_perplexity: float | None
    unix_time: float


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        self.folder, self._keep_last = folder, keep_last

    def records(self) -> list[Record]:
        """Recorded checkpoints, oldest first. A record that cannot be read is passed over, and said aloud."""
        found = []
        for path in sorted(self.folder.glob("step-*.json")):
            try:
                found.append(_read_record(path))
            except (ValueError, TypeError, KeyError) as error:
                log.warning("%s is damaged (%s): that checkpoint is not used", path, error)
        return sorted(found, key=lambda record: record.step)

    def glance(self) -> tuple[list[Record], list[str]]:
        """Records, oldest first, whose file is there in the size recorded; what is wrong with others. Reads no file."""
        whole, faults = [], []
        for path in sorted(self.folder.glob("step-*.json")):
            try:
                record = _read_record(path)
                fault = self._fault_at_a_glance(record)
            except FileNotFoundError:  # just removed by the run: others are newer
                continue
            except (OSError, ValueError, TypeError, KeyError) as error:
                fault = f"its record cannot be read: {error}"
            if fault is None:
                whole.append(record)
            else:
                faults.append(f"{path.stem}: {fault}")
        return sorted(whole, key=lambda record: record.step), faults

    def path(self, record: Record) -> Path:
        return self.folder / record.file

    def save(
        self, content: dict[str, Any], val_perplexity: float | None, unix_time: float,
        check_right: Callable[[], None] = lambda: None,
    ) -> Record:  # fmt: skip
        """Write a checkpoint and record it, then remove those that are neither among the last nor the best.

        check_right: raises where this process may not write the folder any more; called before it does.
        Raises OSError (a full disk); what stood before still stands then.
        """
        check_right()
        self.folder.mkdir(parents=True, exist_ok=True)
        step = int(content["global_step"])
        target = self.folder / f"step-{step:08d}.ckpt"
        size, sha256 = _write_hashed(content, target)
        if val_perplexity is not None and not math.isfinite(val_perplexity):
            val_perplexity = None
        record = Record(step, target.name, size, sha256, val_perplexity, unix_time)
        check_right()  # writing took its time
        write_json(self._record_path(record), asdict(record))
        self._prune(step)
        return record

    def to_resume_from(self) -> Record | None:
        """The newest whole checkpoint, or None where no checkpoint was ever recorded.

        Raises ConfigError where all that were are damaged: to start over in silence would lose the whole run.
        """
        newest = self.newest_good()
        recorded = {path.stem for path in self.folder.glob("step-*.json")}
        unrecorded = [p for p in sorted(self.folder.glob("step-*.ckpt")) if p.stem not in recorded]
        for path in unrecorded:
            log.warning("%s has no record beside it (left by a kill, or the record is lost): it is not used", path)
        if newest is None and (recorded or len(unrecorded) > 1):  # a kill leaves one without a record, never two
            names = ", ".join(sorted(recorded | {path.stem for path in unrecorded}))
            raise ConfigError(
                f"{self.folder} holds no whole checkpoint, only damaged ones ({names}); put back a copy of one with "
                "its .json, or remove that folder to start over"
            )
        return newest

    def newest_good(self) -> Record | None:
        """The newest checkpoint whose bytes are those recorded; damaged ones are named and passed over."""
        return next(self._good(reversed(self.records())), None)

    def best(self) -> Record | None:
        """The whole checkpoint with the lowest held-out perplexity; without any, the newest."""
        rated = [r for r in self.records() if r.val_perplexity is not None]
        return next(self._good(iter(sorted(rated, key=_rating))), None) or self.newest_good()

    def _good(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            fault = self._fault(record)
            if fault is None:
                yield record
            else:
                log.warning("checkpoint %s is damaged (%s): the one before is used", self.path(record), fault)

    def _fault(self, record: Record) -> str | None:
        fault = self._fault_at_a_glance(record)
        if fault is not None:
            return fault
        return None if sha256_of(self.path(record)) == record.sha256 else "its sha256 is not the one recorded"

    def _fault_at_a_glance(self, record: Record) -> str | None:
        path = self.path(record)
        if not path.exists():
            return "it is missing"
        if path.stat().st_size != record.bytes:
            return f"it has {path.stat().st_size} bytes instead of {record.bytes}"
        return None

    def _prune(self, saved_step: int) -> None:
        # Records past the step just saved, or not readable, are damaged checkpoints that the run had to pass over.
        records = [record for record in self.records() if record.step <= saved_step]
        rated = [r for r in records if r.val_perplexity is not None]
        keep = {r.file for r in records[-self._keep_last :]} | {r.file for r in sorted(rated, key=_rating)[:1]}
        for record in records:
            if record.file not in keep:
                self._record_path(record).unlink(missing_ok=True)
                self.path(record).unlink(missing_ok=True)
        kept = {Path(file).stem for file in keep}
        for path in [*self.folder.glob("step-*"), *self.folder.glob(".*.tmp")]:
            if path.stem not in kept:  # left by a kill between writing and recording
                path.unlink(missing_ok=True)

    def _record_path(self, record: Record) -> Path:
        return (self.folder / record.file).with_suffix(".json")


def _read_record(path: Path) -> Record:
    values = json.loads(path.read_text())
    record = Record(**values)
    if type(record.step) is not int or record.file != f"{path.stem}.ckpt":
        raise ValueError(f"step {record.step!r} of file {record.file!r}")
    return record


def _rating(record: Record) -> tuple[float, int]:
    assert record.val_perplexity is not None
    return record.val_perplexity, -record.step


def _write_hashed(content: dict[str, Any], target: Path) -> tuple[int, str]:
    import torch

    with atomic_file(target) as file:
        hashing = HashingFile(file)
        try:
            torch.save(content, hashing)  # type: ignore[arg-type]
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # a full disk, which torch hides behind "unexpected pos"
                raise error.__context__ from None
            raise
    return hashing.written, hashing.digest.hexdigest()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file, memory-mapped, tensors on the CPU."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint; a run keeps its own in RUN_DIR/checkpoints") from None
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for damaged files
        reason = str(error).split("\n")[0][:200]
        raise ConfigError(f"{path} is not a readable checkpoint ({reason}); use another one of the run") from None
    if not isinstance(content, dict) or "state_dict" not in content or "elmo" not in content:
        raise ConfigError(f"{path} is not a checkpoint of this project; use one that `elmo pretrain` wrote")
    return content


def resolve_checkpoint(location: str) -> Path:
    """A checkpoint file, or for a run's folder its best checkpoint (by held-out perplexity), else its newest."""
    path = local_path(location)
    if not path.is_dir():
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    record = CheckpointFolder(folder).best()
    if record is None:
        raise ConfigError(f"{path} holds no whole checkpoint; give a run's folder after its first checkpoint")
    return folder / record.file
