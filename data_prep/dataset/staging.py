"""Shards of a dataset copied to a disk of this node when they are first used: whole, checked, once for all processes.

A rank reads a few stretches of an epoch at a time, so a node copies the shards that its lanes are in and no others.
Where the disk has no room, shards not used lately make place, and else a shard is read where it lies.
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from data_prep.dataset.files import DataError, describe_os_error, is_full_disk, sha256_of
from data_prep.dataset.index import Index
from data_prep.dataset.remote import Fetched, hashes_in
from data_prep.dataset.shards import Dataset

_IN_USE_SECONDS = 600.0  # a shard used so lately is not removed: a process may be about to open it


def open_staged(folder: Path, index: Index, stage_dir: Path) -> Dataset:
    """Return the dataset in `folder`, read from copies in stage_dir/FINGERPRINT; the lexicon's are made now."""
    staged = stage_dir / index["fingerprint"]
    staged.mkdir(parents=True, exist_ok=True)
    locate = _Staged(folder.resolve(), staged, hashes_in(index), folder)
    places = {locate(name).parent for name in index["lexicon"]["files"]}
    lexicon_folder = staged if places == {staged} else folder
    return Dataset.from_index(str(folder), index, lexicon_folder, locate)


def remove_damaged(index: Index, stage_dir: Path) -> list[str]:
    """Remove copies whose bytes are not the dataset's, so that they are copied again; return their names.

    index: a checked one, whose names all are plain: nothing outside stage_dir/FINGERPRINT is touched.
    """
    staged, damaged = stage_dir / index["fingerprint"], []
    for name, (num_bytes, sha256) in hashes_in(index).items():
        path = staged / name
        if path.is_file() and (path.stat().st_size != num_bytes or sha256_of(path) != sha256):
            path.unlink()
            damaged.append(name)
    return damaged


@dataclass(frozen=True)
class _Staged(Fetched):
    """As Fetched, from a folder; where a copy has no room, the file's own place."""

    source: Path

    def __call__(self, name: str) -> Path:
        for attempt in range(2):
            try:
                path = self.fetched(name)
                os.utime(path)
                return path
            except OSError as error:
                if not is_full_disk(error):
                    raise DataError(describe_os_error(error)) from error
                if attempt == 0 and not self._make_room(self.hashes[name][0]):
                    break
        return self.source / name

    def _make_room(self, num_bytes: int) -> bool:
        """Whether there is as much room, once shards that were not used lately gave up theirs."""
        lately = time.time() - _IN_USE_SECONDS
        for path in sorted(self.folder.glob("*.tar"), key=lambda path: path.stat().st_mtime):
            if self._has_room(num_bytes) or path.stat().st_mtime > lately:
                break
            path.unlink(missing_ok=True)  # maps of it stay good, and keep its room until they are closed
        return self._has_room(num_bytes)

    def _has_room(self, num_bytes: int) -> bool:
        return shutil.disk_usage(self.folder).free >= num_bytes
