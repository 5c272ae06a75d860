"""Checkpoints that are whole or absent: written aside, hashed, renamed, then recorded.

CHECKPOINTS/step-00001000.ckpt counts once step-00001000.json beside it holds its size and sha256. The file is a
plain `torch.save` dict that loads with weights_only=True; `state_dict` and `optimizer_states` are Lightning's names.
A checkpoint that is damaged, or that the run did not resume from, is renamed to damaged-step-....ckpt at the next save
and not deleted: a stale network cache can look like damage. torch is imported where a checkpoint is read or written, so
that records can be read without it.
"""

import logging
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.dataset.files import HashingFile, atomic_file, sha256_of, write_json
from data_prep.dataset.locations import local_path
from pipeline.config.schema import ConfigError
from pipeline.model.formats.safe_pickle import load_tensors, reason_of
from pipeline.train.run_dir.checkpoint_content import Record as Record
from pipeline.train.run_dir.checkpoint_content import check_content, read_record, read_sealed

log = logging.getLogger(__name__)
_NAME = re.compile(r"step-\d{8,}")  # without its suffix
_ASIDE = "damaged-"


class CheckpointFolder:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep_last: int = 2) -> None:
        self.folder, self.keep_last = folder, keep_last
        self._logged: set[str] = set()

    def records(self) -> list[Record]:
        """Return the recorded checkpoints, oldest first. One whose record cannot be read is logged and left out."""
        found, faults = self._read_records()
        for fault in faults.values():
            self._warn_once(f"{fault}: that checkpoint is not used")
        return found

    def glance(self) -> tuple[list[Record], list[str]]:
        """Return records, oldest first, whose file has the size recorded, and the faults of others; no file is read."""
        whole, faults = self._glance()
        return whole, [f"{stem}: {fault}" for stem, fault in faults.items()]

    def _glance(self) -> tuple[list[Record], dict[str, str]]:
        found, faults = self._read_records()
        faults = {stem: f"its record cannot be read: {fault}" for stem, fault in faults.items()}
        sized = {Path(record.file).stem: _fault(self.path(record), record, hashed=False) for record in found}
        faults |= {stem: fault for stem, fault in sized.items() if fault is not None}
        return [record for record in found if Path(record.file).stem not in faults], faults

    def _read_records(self) -> tuple[list[Record], dict[str, str]]:
        """Return the readable records, oldest first, and the fault of each damaged one."""
        found, faults = [], {}
        for path in sorted(self.folder.glob("step-*.json")):
            try:
                found.append(read_record(path))
            except FileNotFoundError:  # just removed by the run: others are newer
                continue
            except (OSError, ValueError) as error:
                faults[path.stem] = str(error)
        return sorted(found, key=lambda record: record.step), faults

    def path(self, record: Record) -> Path:
        """Return the path of the checkpoint's file."""
        return self.folder / record.file

    def save(
        self,
        content: dict[str, Any],
        val_perplexity: float | None,
        unix_time: float,
        check_right: Callable[[], None] = lambda: None,
    ) -> Record:
        """Write a checkpoint and record it, then remove those that are neither among the last nor the best.

        check_right: raises if this process no longer owns the folder; called before each write.
        Raises OSError (a full disk); earlier checkpoints stay.
        """
        check_right()
        self.folder.mkdir(parents=True, exist_ok=True)
        step = int(content["global_step"])
        target = self.folder / f"step-{step:08d}.ckpt"
        size, sha256 = _write_hashed(content, target)
        rating = float(val_perplexity) if val_perplexity is not None and math.isfinite(val_perplexity) else None
        record = Record.sealed(step, target.name, size, sha256, rating, float(unix_time))
        check_right()  # writing may have taken long
        write_json(self.record_path(record), asdict(record))
        try:
            self._prune(step)
        except OSError as error:  # the checkpoint is written; the next save cleans up
            log.warning("%s cannot be cleaned up (%s)", self.folder, error)
        return record

    def to_resume_from(self) -> Record | None:
        """Return the newest whole checkpoint, None if no checkpoint was ever recorded.

        Raises ConfigError if all recorded checkpoints are damaged: a silent start from step 0 would lose the run.
        """
        newest = self.newest_good()
        recorded = {path.stem for path in self.folder.glob("step-*.json")}
        unrecorded = [p for p in sorted(self.folder.glob("step-*.ckpt")) if p.stem not in recorded]
        for path in unrecorded:
            self._warn_once(f"{path} has no record beside it (left by a kill, or the record is lost): it is not used")
        if newest is None and (recorded or len(unrecorded) > 1):  # a kill leaves one without a record, never two
            names = ", ".join(sorted(recorded | {path.stem for path in unrecorded}))
            raise ConfigError(
                f"{self.folder} holds no whole checkpoint, only damaged ones ({names}); put back a copy of one with "
                "its .json, or remove that folder to start over"
            )
        return newest

    def newest_good(self) -> Record | None:
        """Return the newest checkpoint whose bytes match its record; log and skip damaged ones."""
        return next(self._good(reversed(self.records())), None)

    def whole(self, file: str) -> Record | None:
        """Return the checkpoint of that file name, None if its bytes do not match its record."""
        return next(self._good(record for record in self.records() if record.file == file), None)

    def best(self) -> Record | None:
        """Return the whole checkpoint with the lowest held-out perplexity, else the newest whole one."""
        rated = [r for r in self.records() if r.val_perplexity is not None]
        return next(self._good(iter(sorted(rated, key=_rating))), None) or self.newest_good()

    def _good(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            fault = _fault(self.path(record), record, hashed=True)
            if fault is None:
                yield record
            else:
                self._warn_once(f"checkpoint {self.path(record)} is damaged ({fault}): the one before is used")

    def _prune(self, saved_step: int) -> None:
        """Remove checkpoints that are neither among the last nor the best, and files that a kill left; set damaged
        checkpoints aside.

        A checkpoint of a later step than `saved_step` that has no record stays. It may be left by a kill between
        writing and recording (the run removes it once it has passed that step), or a network cache hides its record.
        """
        whole, faults = self._glance()
        past = [record for record in whole if record.step <= saved_step]
        keep = {record.file for record in to_keep(past, self.keep_last)}
        for record in past:
            if record.file not in keep:
                self.record_path(record).unlink(missing_ok=True)
                self.path(record).unlink(missing_ok=True)
        self._set_aside({Path(record.file).stem for record in whole if record.step > saved_step} | faults.keys())
        recorded = {path.stem for path in self.folder.glob("step-*.json")}
        for path in self.folder.glob("step-*.ckpt"):
            if path.stem not in recorded and _NAME.fullmatch(path.stem) and int(path.stem[5:]) <= saved_step:
                path.unlink(missing_ok=True)
        for path in self.folder.glob(".step-*.tmp"):
            path.unlink(missing_ok=True)

    def _set_aside(self, stems: set[str]) -> None:
        """Rename checkpoints so that no command uses them; remove those that were set aside before."""
        before = set(self.folder.glob(f"{_ASIDE}step-*"))
        aside = []
        for path in sorted(path for path in self.folder.glob("step-*") if path.stem in stems):
            aside.append(path.rename(path.with_name(f"{_ASIDE}{path.name}")))
        if aside:
            self._warn_once(
                f"{', '.join(path.name for path in aside)} in {self.folder}: set aside as damaged; check or remove "
                "them: a stale network cache can look like damage"
            )
            for path in before - set(aside):
                path.unlink(missing_ok=True)

    def _warn_once(self, text: str) -> None:
        if text not in self._logged:
            self._logged.add(text)
            log.warning("%s", text)

    def record_path(self, record: Record) -> Path:
        """Return the path of the checkpoint's record."""
        return (self.folder / record.file).with_suffix(".json")


def to_keep(records: list[Record], keep_last: int) -> list[Record]:
    """Return the last and the best of the records, which are oldest first, in the same order."""
    rated = [record for record in records if record.val_perplexity is not None]
    kept = {r.file for r in records[-keep_last:]} | {r.file for r in sorted(rated, key=_rating)[:1]}
    return [record for record in records if record.file in kept]


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
    """Return the content of a checkpoint file, memory-mapped, tensors on the CPU. Raises ConfigError."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        if not zipfile.is_zipfile(path):
            path.open("rb").close()
            raise ConfigError(
                f"{path} is no checkpoint, or it is cut short; give RUN_DIR/checkpoints/step-NUMBER.ckpt, a run's "
                "folder or an exported model"
            )
        content: dict[str, Any] = load_tensors(path, mmap=True)
    except ConfigError:
        raise
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint; a run keeps its own in RUN_DIR/checkpoints") from None
    except Exception as error:  # torch raises RuntimeError, UnpicklingError, EOFError, ... for damaged files
        raise ConfigError(
            f"{path} is not a readable checkpoint ({reason_of(error)}); use another one of the run"
        ) from None
    check_content(path, content)
    return content


def resolve_checkpoint(location: str) -> Path:
    """Return a checkpoint file after a check against its record. Raises ConfigError for a damaged one.

    location: a file, or a run's folder for its best checkpoint by held-out perplexity, else its newest.
    """
    path = local_path(location)
    if not path.is_dir():
        _check_against_record(path)
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    record = CheckpointFolder(folder).best()
    if record is None:
        raise ConfigError(f"{path} holds no whole checkpoint; give a run's folder after its first checkpoint")
    return folder / record.file


def _check_against_record(path: Path) -> None:
    """Raise ConfigError if a file's bytes differ from the record beside it; log a warning if there is no record."""
    beside = path.with_suffix(".json")
    if not path.is_file() or beside == path:
        return  # load_checkpoint refuses it
    try:
        record = read_sealed(beside)
    except FileNotFoundError:
        log.warning("%s has no record (%s) beside it: its bytes were not checked", path, beside.name)
        return
    except OSError as error:
        raise ConfigError(f"{beside} cannot be read ({error.strerror}); the checkpoint is checked against it") from None
    fault = _fault(path, record, hashed=True)
    if fault is not None:
        raise ConfigError(f"{path} is damaged ({fault} in {beside.name}); put back a copy, or use another checkpoint")


def _fault(path: Path, record: Record, *, hashed: bool) -> str | None:
    """Return how a checkpoint's file differs from its record, None if it does not.

    hashed: compare all bytes, by their hash; else the size alone.
    """
    try:
        size = path.stat().st_size
        if size != record.bytes:
            return f"it has {size} bytes instead of the {record.bytes} recorded"
        if hashed and sha256_of(path) != record.sha256:
            return "its sha256 is not the one recorded"
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return None
