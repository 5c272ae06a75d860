"""Copies of a run's checkpoints in an object store, from which the run resumes on a machine whose disk is gone.

The store holds what RUN_DIR/checkpoints holds, under the same names, and beside it run.json, wandb-run.json and
metrics.jsonl. A checkpoint is uploaded and read back before its record is, so that one with a record is complete.
"""

import io
import logging
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from data_prep.dataset.files import DataError, atomic_file, lock_file, sha256_of, write_json
from data_prep.dataset.typed_json import parse_json
from data_prep.dataset.urls.download import download
from data_prep.dataset.urls.transfer import TransferError
from data_prep.dataset.urls.upload import list_files, remove, upload
from pipeline.config.schema import ConfigError
from pipeline.train.run_dir.checkpoint import CheckpointFolder, to_keep
from pipeline.train.run_dir.checkpoint_content import Record, parse_record

T = TypeVar("T")
log = logging.getLogger(__name__)
RUN_FILE = "run.json"
_BESIDE = (RUN_FILE, "wandb-run.json", "metrics.jsonl")
_MAX_RECORD_BYTES, _MAX_FILE_BYTES = 1 << 20, 1 << 32


class Mirror:
    """The checkpoints of a run behind the URL of a folder.

    url: without a slash at its end. folder: the run's own checkpoints, in RUN_DIR/checkpoints.
    """

    def __init__(self, url: str, folder: CheckpointFolder) -> None:
        self.url, self._folder, self._run_dir = url, folder, folder.folder.parent
        self._records: dict[int, Record] | None = None  # of the store, by step; None before they are read
        self._incomplete: set[int] = set()  # steps of files that the store holds without a record

    def fetch(self) -> list[Path]:
        """Fetch the newest complete checkpoint, unless the run's folder holds one as new, and the best one.

        Return the files written. One process of a machine fetches, the others wait. Raises DataError if the store
        cannot be read, ConfigError if it holds damaged checkpoints only.
        """
        records = self._read_records()
        if not self._newer(records)[1]:  # without the lock: the processes hash a large checkpoint side by side
            return []
        self._folder.folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder.folder / ".mirror.lock", "ab") as lock:
            lock_file(lock, wait=True)
            here, newer = self._newer(records)
            if not newer:
                return []
            fetched = self._fetch_first(list(reversed(newer)))
            if not fetched and here is None:
                names = ", ".join(record.file for record in newer)
                raise ConfigError(
                    f"checkpoint.mirror={self.url} holds damaged checkpoints only ({names}); "
                    "put back a copy of one with its .json, or give another URL to start over"
                )
            best = [record for record in to_keep(records, 1) if not self._folder.path(record).exists()]
            if fetched and here is None:
                fetched += self._fetch_first(best) + self._fetch_beside()
            return fetched

    def _newer(self, records: list[Record]) -> tuple[Record | None, list[Record]]:
        """Return the newest good checkpoint of the run's folder, and those of the records that are newer."""
        here = self._folder.newest_good()
        return here, [record for record in records if here is None or record.step > here.step]

    def _fetch_first(self, records: list[Record]) -> list[Path]:
        """Fetch the first of the records whose bytes are right, and return the files written."""
        for record in records:
            path, source = self._folder.path(record), f"{self.url}/{record.file}"
            try:
                with atomic_file(path) as file:
                    found = download(source, file, record.bytes)
                    if found != (record.bytes, record.sha256):
                        found = download(source, file, record.bytes)  # it may be sound there, and damaged on its way
                    if found != (record.bytes, record.sha256):
                        raise DataError(f"{source} is damaged: its bytes are not those of its record")
            except DataError as error:
                if isinstance(error.__cause__, TransferError):
                    raise  # an earlier checkpoint would lose steps that are there
                log.warning("%s; the checkpoint before it is used", error)
                continue
            write_json(self._folder.record_path(record), asdict(record))
            log.warning("fetched %s (step %s) into %s", source, f"{record.step:,}", self._folder.folder)
            return [path, self._folder.record_path(record)]
        return []

    def _fetch_beside(self) -> list[Path]:
        """Fetch the small files that the run's folder lacks: its identity, its id in wandb and its metrics."""
        names, written = list_files(self.url), []
        for name in _BESIDE:
            path = self._run_dir / name
            if name in names and not path.exists():
                with atomic_file(path) as file:
                    download(f"{self.url}/{name}", file, _MAX_FILE_BYTES)
                written.append(path)
        return written

    def read_run(self, schema: type[T]) -> T | None:
        """Return the run.json of the store, None if there is none. Raises DataError for a damaged one."""
        if RUN_FILE not in list_files(self.url):
            return None
        name = f"{self.url}/{RUN_FILE}"
        run: T = parse_json(self._read(RUN_FILE), schema, name, "put back a copy of it, or remove it", ConfigError)
        return run

    def write_run(self) -> None:
        """Upload run.json if there is none, so that a URL that cannot be written is found before the training."""
        if RUN_FILE not in list_files(self.url):
            self._upload(self._run_dir / RUN_FILE)

    def update(self, check_right: Callable[[], None] = lambda: None) -> None:
        """Upload the checkpoints that the store lacks, newest first, and remove those that are not kept any more.

        check_right: raises if this process no longer owns the run's folder. Raises DataError.
        """
        here = self._folder.glance()[0]
        if not here:
            return
        stored = self._stored()
        earlier = [record for step, record in stored.items() if step < here[0].step]  # later ones: trained again since
        kept = to_keep(sorted(earlier, key=lambda record: record.step) + here, self._folder.keep_last)
        for record in reversed(kept):
            if stored.get(record.step) != record and self._folder.path(record).exists():
                check_right()
                if self._upload_checkpoint(record):
                    stored[record.step] = record
        unwanted = (set(stored) | self._incomplete) - {record.step for record in kept}
        for step in sorted(step for step in unwanted if step <= here[-1].step):
            check_right()
            remove(f"{self.url}/step-{step:08d}.json")
            remove(f"{self.url}/step-{step:08d}.ckpt")
            stored.pop(step, None)
            self._incomplete.discard(step)

    def _upload_checkpoint(self, record: Record) -> bool:
        """Return whether it is uploaded: the run may have removed it, and saved a newer one, which comes next."""
        for name in _BESIDE:
            if (self._run_dir / name).exists():
                self._upload(self._run_dir / name)
        path = self._folder.path(record)
        self._incomplete.add(record.step)
        try:
            upload(path, f"{self.url}/{record.file}", record.bytes, record.sha256)
            self._upload(self._folder.record_path(record))
            self._incomplete.discard(record.step)
        except (DataError, OSError):
            if path.exists():
                raise
            return False
        return True

    def _upload(self, path: Path) -> None:
        """Upload a small file as it is now; others may append to it."""
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(path.read_bytes())
            copy.flush()
            aside = Path(copy.name)
            upload(aside, f"{self.url}/{path.name}", aside.stat().st_size, sha256_of(aside))

    def _stored(self) -> dict[int, Record]:
        if self._records is None:
            self._records = {record.step: record for record in self._read_records()}
            steps = {int(m[1]) for name in list_files(self.url) if (m := re.fullmatch(r"step-(\d{8,})\.ckpt", name))}
            self._incomplete = steps - set(self._records)
        return self._records

    def _read_records(self) -> list[Record]:
        """Return the records in the store, oldest first. One that is damaged is logged and left out."""
        found, names = [], list_files(self.url)
        for name in names:
            if name.startswith("step-") and name.endswith(".json") and name.replace(".json", ".ckpt") in names:
                try:
                    found.append(parse_record(self._read(name), f"{self.url}/{name}"))
                except ConfigError as error:
                    log.warning("%s: that checkpoint is not used", error)
        return sorted(found, key=lambda record: record.step)

    def _read(self, name: str) -> bytes:
        data = io.BytesIO()
        download(f"{self.url}/{name}", data, _MAX_RECORD_BYTES)
        return data.getvalue()
