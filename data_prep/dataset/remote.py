"""A dataset behind a URL: fetch its files whole, once per node, check them, and read them as local files.

A rank reads few parts of an epoch at a time, so a node fetches only the shards that hold its lanes. If the disk is
full, shards that were not used recently are removed.
"""

import io
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from data_prep.dataset.files import DataError, atomic_file, describe_os_error, is_full_disk, lock_file, write_bytes
from data_prep.dataset.index import INDEX, MAX_INDEX_BYTES, Index, check_index, files_in
from data_prep.dataset.lexicon import COUNTS, OFFSETS, UTF8
from data_prep.dataset.locations import file_of, local_path
from data_prep.dataset.shards import Dataset
from data_prep.dataset.urls.download import download
from data_prep.dataset.urls.transfer import is_missing_file

_IN_USE_SECONDS = 600.0  # a shard used within this time is not removed: a process may be about to open it


def default_cache_dir() -> Path:
    """Return $ELMO_CACHE, or elmo-pipeline in $XDG_CACHE_HOME or ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ELMO_CACHE") or base / "elmo-pipeline")


def open_remote(url: str, cache_dir: str | Path | None = None) -> Dataset:
    """Return the dataset behind a URL. Index and lexicon are fetched now, each shard on first use.

    Files are kept in cache_dir/FINGERPRINT: if a dataset changes behind its URL, old and new files never mix.
    """
    url = url.rstrip("/")
    origin, data = file_of(url) or url, io.BytesIO()
    try:
        download(_in(origin, INDEX), data, MAX_INDEX_BYTES)
    except DataError as error:
        if error.__cause__ is None or not is_missing_file(error.__cause__.__cause__):
            raise
        raise DataError(f"{error}; if its upload was cut short, run that `elmo prep` again to finish it") from error
    index = check_index(data.getvalue(), url)
    folder = local_path(cache_dir or default_cache_dir(), "data.cache_dir") / index["fingerprint"]
    fetch = Fetched(origin, folder, hashes_in(index))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (UTF8, OFFSETS, COUNTS):
            fetch(name)
        write_bytes(folder / INDEX, data.getvalue())
    except OSError as error:
        raise DataError(describe_os_error(error)) from error
    return Dataset.from_index(url, index, folder, fetch)


def hashes_in(index: Index) -> dict[str, tuple[int, str]]:
    """Return the size in bytes and the SHA-256 of every file that the index names."""
    return {name: (entry["bytes"], entry["sha256"]) for name, entry in files_in(index).items()}


@dataclass(frozen=True)
class Fetched:
    """Return the local path of a dataset's file, fetched first if this node does not have it.

    origin: the URL or the folder of the dataset. hashes: (bytes, sha256) of each file.
    """

    origin: str | Path
    folder: Path
    hashes: dict[str, tuple[int, str]]

    def __call__(self, name: str) -> Path:
        for attempt in range(2):
            try:
                path = self.fetched(name)
                os.utime(path)
                return path
            except OSError as error:
                if not is_full_disk(error):
                    raise DataError(describe_os_error(error)) from error
                if attempt == 1 or not self._make_room(self.hashes[name][0]):
                    return self.without_room(name, error)
        raise AssertionError

    def without_room(self, name: str, error: OSError) -> Path:
        """Return the path of a file for which the disk has no room."""
        raise DataError(describe_os_error(error)) from error

    def _make_room(self, num_bytes: int) -> bool:
        """Remove shards that were not used recently until num_bytes are free; return whether they are."""
        recently = time.time() - _IN_USE_SECONDS
        used: list[tuple[float, Path]] = []
        for path in self.folder.glob("*.tar"):
            with suppress(FileNotFoundError):  # another process makes room too
                used.append((path.stat().st_mtime, path))
        for last, path in sorted(used):
            if self._has_room(num_bytes) or last > recently:
                break
            path.unlink(missing_ok=True)  # open maps stay valid, and keep the space until they are closed
        return self._has_room(num_bytes)

    def _has_room(self, num_bytes: int) -> bool:
        return shutil.disk_usage(self.folder).free >= num_bytes

    def fetched(self, name: str) -> Path:
        """Return the local path. Raises OSError if it cannot be written."""
        path = self.folder / name
        if not self._is_there(path):
            with _locked(self.folder / f".{name}.lock"):
                if not self._is_there(path):  # another process may have fetched it while this one waited
                    self._fetch(name, path)
        return path

    def _is_there(self, path: Path) -> bool:
        try:
            return path.stat().st_size == self.hashes[path.name][0]
        except FileNotFoundError:
            return False

    def _fetch(self, name: str, path: Path) -> None:
        source, (num_bytes, sha256) = _in(self.origin, name), self.hashes[name]
        with atomic_file(path) as file:
            found_bytes, found = download(source, file, num_bytes)
            if (found_bytes, found) != (num_bytes, sha256):
                raise DataError(
                    f"{source} arrived damaged ({found_bytes:,} bytes, sha256 {found[:12]}; the index says "
                    f"{num_bytes:,} and {sha256[:12]}); try again, then upload the file again"
                )


def _in(origin: str | Path, name: str) -> str | Path:
    return origin / name if isinstance(origin, Path) else f"{origin}/{name}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "wb") as file:
        lock_file(file, wait=True)
        yield
