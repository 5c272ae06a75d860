"""Upload a finished dataset into an object store: file by file, the index last, so that readers see all of it or none.

URL/.prepared.json, the options and inputs of the dataset, comes first: it shows that the URL can be written, and a
rerun recognises its own unfinished upload by it. A file that is there already is read and not sent again.
"""

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from data_prep.dataset.files import DataError, sha256_of
from data_prep.dataset.index import INDEX, MAX_INDEX_BYTES, Index, check_index, read_index
from data_prep.dataset.lexicon import FILES as LEXICON_FILES
from data_prep.dataset.remote import default_cache_dir, hashes_in
from data_prep.dataset.typed_json import parse_json
from data_prep.dataset.urls.download import download
from data_prep.dataset.urls.upload import is_stored, list_files, remove, upload
from data_prep.plan import Identity
from data_prep.progress import Progress
from data_prep.workspace import IDENTITY, SHARD, SKIPPED

_REMEDY = "use overwrite=true or another URL"


@dataclass(frozen=True)
class DatasetInStore:
    """A dataset, finished or not, behind the URL of a folder."""

    url: str

    @property
    def default_folder(self) -> Path:
        """The folder in the cache in which the dataset is written before its upload."""
        return default_cache_dir() / "uploads" / hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def names(self) -> list[str]:
        """Return the names of the dataset's files. Raises DataError for files that belong to no dataset."""
        names = list_files(self.url)
        foreign = [name for name in names if not _is_of_a_dataset(name)]
        if foreign and INDEX not in names:
            raise DataError(f"output {self.url} holds {foreign[0]} and is no dataset; name a new or empty folder")
        return names

    def read_index(self) -> Index:
        """Return the index of the finished dataset."""
        return check_index(self._read(INDEX), self.url)

    def read_identity(self) -> Identity | None:
        """Return the options and inputs of what is there, None if they are not known."""
        if IDENTITY not in self.names():
            return None
        identity: Identity = parse_json(self._read(IDENTITY), Identity, f"{self.url}/{IDENTITY}", _REMEDY)
        return identity

    def write_identity(self, identity: Identity) -> None:
        """Record what is being uploaded."""
        with tempfile.NamedTemporaryFile() as file:
            file.write((json.dumps(identity, indent=1, ensure_ascii=False) + "\n").encode())
            file.flush()
            self._upload(Path(file.name), IDENTITY)

    def upload(self, folder: Path, identity: Identity, show_progress: bool) -> Index:
        """Upload the dataset in `folder` and return its index. What an earlier call has uploaded is not sent again."""
        index, names = read_index(folder), list_files(self.url)
        if INDEX in names:
            remove(f"{self.url}/{INDEX}")  # of another dataset, whose files are now replaced
        self.write_identity(identity)
        hashes = hashes_in(index)
        progress, done = (
            Progress("upload", sum(size for size, _ in hashes.values()), show_progress, "byte", _megabytes),
            0,
        )
        for name, (num_bytes, sha256) in hashes.items():
            if name not in names or not is_stored(f"{self.url}/{name}", num_bytes, sha256):
                upload(folder / name, f"{self.url}/{name}", num_bytes, sha256)
            done += num_bytes
            progress.update(done, done)
        progress.close()
        if (folder / SKIPPED).exists():
            self._upload(folder / SKIPPED, SKIPPED)
        for name in names:
            if SHARD.fullmatch(name) and name not in hashes:
                remove(f"{self.url}/{name}")
        self._upload(folder / INDEX, INDEX)
        return index

    def _upload(self, path: Path, name: str) -> None:
        upload(path, f"{self.url}/{name}", path.stat().st_size, sha256_of(path))

    def _read(self, name: str) -> bytes:
        with tempfile.TemporaryFile() as file:
            download(f"{self.url}/{name}", file, MAX_INDEX_BYTES)
            file.seek(0)
            return file.read()


def _is_of_a_dataset(name: str) -> bool:
    return name in (*LEXICON_FILES, SKIPPED, IDENTITY) or SHARD.fullmatch(name) is not None


def _megabytes(count: int, per_second: float) -> str:
    return f"{count / 1e6:,.1f} MB, {per_second / 1e6:,.1f} MB/s"
