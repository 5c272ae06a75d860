"""A dataset behind a URL: its files are fetched whole, once for each node, checked, and then read as local ones."""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.files import DataError, atomic_file, write_json
from data_prep.lexicon import COUNTS, OFFSETS, UTF8
from data_prep.shards import INDEX, Dataset, check_index

_URL = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)
_BLOCK_BYTES = 1 << 20


def is_url(location: str) -> bool:
    """Whether a location is a URL (http:, s3:, gs:, file:, ... all that webdataset opens) and not a folder."""
    return _URL.match(location) is not None and not os.path.isdir(location)


def default_cache_dir() -> Path:
    """$ELMO_CACHE, or elmo-pipeline in $XDG_CACHE_HOME or ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("ELMO_CACHE") or base / "elmo-pipeline")


def open_remote(url: str, cache_dir: str | Path | None = None) -> Dataset:
    """The dataset behind a URL: index and lexicon are fetched now, each shard when it is first used.

    Files live in cache_dir/FINGERPRINT, so a dataset that changed behind its URL never mixes with the one before.
    """
    url = re.sub(r"^file:/+", "file:///", url.rstrip("/"))  # the one form that webdataset opens
    index = check_index(_fetch_index(f"{url}/{INDEX}"), url)
    folder = Path(cache_dir or default_cache_dir()) / index["fingerprint"]
    folder.mkdir(parents=True, exist_ok=True)
    shards = {shard["file"]: shard for split in index["splits"].values() for shard in split["shards"]}
    files = index["lexicon"]["files"] | shards
    hashes = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    fetch = Fetched(url, folder, hashes)
    for name in (UTF8, OFFSETS, COUNTS):
        fetch(name)
    write_json(folder / INDEX, index)
    return Dataset.from_index(url, index, folder, fetch)


@dataclass(frozen=True)
class Fetched:
    """Gives the local path of a dataset's file, fetching it first if this node has not. hashes: (bytes, sha256)."""

    url: str
    folder: Path
    hashes: dict[str, tuple[int, str]]

    def __call__(self, name: str) -> Path:
        path = self.folder / name
        if not self._is_there(path):
            with _locked(self.folder / f".{name}.lock"):
                if not self._is_there(path):  # nor did another process meanwhile
                    self._fetch(name, path)
        return path

    def _is_there(self, path: Path) -> bool:
        try:
            return path.stat().st_size == self.hashes[path.name][0]
        except FileNotFoundError:
            return False

    def _fetch(self, name: str, path: Path) -> None:
        digest, num_bytes = hashlib.sha256(), 0
        with atomic_file(path) as file:
            for block in _read(f"{self.url}/{name}"):
                digest.update(block)
                num_bytes += file.write(block)
            if (num_bytes, digest.hexdigest()) != self.hashes[name]:
                raise DataError(
                    f"{self.url}/{name} arrived damaged ({num_bytes:,} bytes, sha256 "
                    f"{digest.hexdigest()[:12]}; the index says {self.hashes[name][0]:,} and "
                    f"{self.hashes[name][1][:12]}); try again, then upload the file again"
                )


def _fetch_index(url: str) -> object:
    data = b"".join(_read(url))
    try:
        return json.loads(data)
    except ValueError as error:
        raise DataError(f"{url} is no index ({error}); check the URL") from error


def _read(url: str) -> Iterator[bytes]:
    import webdataset  # pulls in torch where that is installed

    try:
        with webdataset.gopen(url, "rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                yield block
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{url} cannot be fetched ({error}); check the URL, the network and your access") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
