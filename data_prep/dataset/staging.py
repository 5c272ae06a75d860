"""Copy shards of a dataset to a disk of this node on first use: whole, checked, once for all processes.

A rank reads few parts of an epoch at a time, so a node copies only the shards that hold its lanes. If the disk is full,
shards that were not used recently are removed; if that is not enough, a shard is read from its own place.
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

_IN_USE_SECONDS = 600.0  # a shard used within this time is not removed: a process may be about to open it


def open_staged(folder: Path, index: Index, stage_dir: Path) -> Dataset:
    """Return the dataset in `folder`, read from copies in stage_dir/FINGERPRINT. The lexicon is copied now."""
    staged = stage_dir / index["fingerprint"]
    staged.mkdir(parents=True, exist_ok=True)
    locate = _Staged(folder.resolve(), staged, hashes_in(index), folder)
    places = {locate(name).parent for name in index["lexicon"]["files"]}
    lexicon_folder = staged if places == {staged} else folder
    return Dataset.from_index(str(folder), index, lexicon_folder, locate)


def remove_damaged(index: Index, stage_dir: Path) -> list[str]:
    """Remove copies whose bytes are not the dataset's, so that they are copied again; return their names.

    index: a checked index. Its names are plain file names, so nothing outside stage_dir/FINGERPRINT is touched.
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
    """Return the path of a copy, as Fetched does; if the disk has no room for the copy, the path of the file itself."""

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
        """Remove shards that were not used recently until num_bytes are free; return whether they are."""
        recently = time.time() - _IN_USE_SECONDS
        for path in sorted(self.folder.glob("*.tar"), key=lambda path: path.stat().st_mtime):
            if self._has_room(num_bytes) or path.stat().st_mtime > recently:
                break
            path.unlink(missing_ok=True)  # open maps stay valid, and keep the space until they are closed
        return self._has_room(num_bytes)

    def _has_room(self, num_bytes: int) -> bool:
        return shutil.disk_usage(self.folder).free >= num_bytes
