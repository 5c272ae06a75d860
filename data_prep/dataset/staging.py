"""Copy shards of a dataset to a disk of this node on first use: whole, checked, once for all processes.

A rank reads few parts of an epoch at a time, so a node copies only the shards that hold its lanes. If the disk is full,
shards that were not used recently are removed; if that is not enough, a shard is read from its own place.
"""

from dataclasses import dataclass
from pathlib import Path

from data_prep.dataset.files import sha256_of
from data_prep.dataset.index import Index
from data_prep.dataset.remote import Fetched, hashes_in
from data_prep.dataset.shards import Dataset


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

    def without_room(self, name: str, error: OSError) -> Path:
        return self.source / name
