"""Write and read the shards of a dataset: webdataset tars of token ids.

A member KEY.tokens.npy of a tar is one chunk: int32 lexicon ids of whole sentences, each ended by EOS_ID. index.json
holds the offset of each chunk's ids in the tar, so that a chunk is a view into a memory map.
"""

import io
import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.dataset.files import DataError, HashingFile, UnreachableError, atomic_file, save_npy
from data_prep.dataset.index import (
    TAR_HEADER_BYTES,
    Chunk,
    Index,
    ShardEntry,
    SplitEntry,
    chunk_numbers,
)
from data_prep.dataset.lexicon import BOS_ID, EOS_ID, Lexicon
from data_prep.dataset.path_faults import PATH_FAULTS

_MAX_OPEN_MAPS = 64


def shard_name(split: str, number: int) -> str:
    """Return the file name of a shard, such as train-000000.tar."""
    return f"{split}-{number:06d}.tar"


def write_shard(folder: Path, split: str, number: int, chunks: Iterable[tuple[np.ndarray, int]]) -> ShardEntry:
    """Write a whole shard into `folder` and return its entry for index.json.

    chunks: pairs of int32 token ids and the number of sentences they hold. The same chunks give the same bytes.
    """
    import webdataset  # imports torch if installed: seconds that only the writer should pay

    entries: list[Chunk] = []
    with atomic_file(folder / shard_name(split, number)) as file:
        hashing = HashingFile(file)
        with webdataset.TarWriter(hashing, user="", group="", mtime=0, encoder=False) as tar:
            for tokens, num_sentences in chunks:
                member = _npy_bytes(tokens)
                data_at = tar.tarstream.offset + TAR_HEADER_BYTES + len(member) - tokens.nbytes
                key = f"{split}-{number:06d}-{len(entries):06d}"
                tar.write({"__key__": key, "tokens.npy": member})
                entries.append((data_at, len(tokens), num_sentences, xxhash.xxh3_64_hexdigest(tokens.data)))
    return {
        "file": shard_name(split, number),
        "bytes": hashing.written,
        "sha256": hashing.digest.hexdigest(),
        "tokens": sum(entry[1] for entry in entries),
        "sentences": sum(entry[2] for entry in entries),
        "chunks": entries,
    }


def _npy_bytes(tokens: np.ndarray) -> bytes:
    assert tokens.dtype == np.int32 and tokens.ndim == 1
    buffer = io.BytesIO()
    save_npy(buffer, tokens)
    return buffer.getvalue()


Locate = Callable[[str], Path]


@dataclass
class Split:
    """The chunks of one split, in the dataset's order, as views into memory-mapped shards.

    chunk_tokens, chunk_shard (chunks,) int64: the tokens of each chunk (</S> included) and its shard's number.
    A Split can be pickled and forked: each process opens its maps and checks chunks on first use.
    """

    name: str
    num_tokens: int
    num_sentences: int
    chunk_tokens: np.ndarray
    chunk_shard: np.ndarray
    _num_types: int
    _chunk_offset: np.ndarray
    _checksums: np.ndarray
    _shards: list[tuple[str, int]]  # name and bytes
    _locate: Locate
    _maps: "OrderedDict[int, mmap.mmap]" = field(default_factory=OrderedDict)
    _is_checked: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._is_checked = np.zeros(self.num_chunks, bool)

    @property
    def num_chunks(self) -> int:
        """Number of chunks."""
        return len(self.chunk_tokens)

    def chunk(self, index: int) -> np.ndarray:
        """Return (chunk_tokens[index],) int32, read-only: the ids of chunk `index`, a view into the shard's map.

        Raises DataError for a damaged chunk. A chunk is checked only when this process first reads it.
        """
        ids = self.view(index)
        if not self._is_checked[index]:
            for fault in self.faults(index, ids):
                raise DataError(
                    f"{self._path(index)}, chunk {index} of {self.name} {fault}; run `elmo prep verify` on the dataset "
                    "and copy the shard again, or delete this file if it is a copy in a cache or stage folder"
                )
            self._is_checked[index] = True
        return ids

    def view(self, index: int) -> np.ndarray:
        """Return the ids of chunk `index`, as `chunk` does, without a check."""
        shard = self._map(int(self.chunk_shard[index]))
        return np.frombuffer(shard, np.int32, int(self.chunk_tokens[index]), int(self._chunk_offset[index]))

    def faults(self, index: int, ids: np.ndarray) -> Iterator[str]:
        """Yield what is wrong with the ids of chunk `index`: the first fault found, the most serious one first."""
        if xxhash.xxh3_64_intdigest(ids.data) != int(self._checksums[index]):
            yield "has changed: its checksum is not the one in the index"
        elif ids.view(np.uint32).max() >= self._num_types or ids.min() == BOS_ID:  # as uint32, negative ids are large
            yield f"holds ids outside 1..{self._num_types - 1}"
        elif ids[-1] != EOS_ID:
            yield "does not end with a sentence's end"

    def chunk_offset(self, index: int) -> int:
        """Return the offset of the chunk's ids in its shard, in bytes."""
        return int(self._chunk_offset[index])

    def _path(self, index: int) -> Path:
        return self._locate(self._shards[self.chunk_shard[index]][0])

    def _map(self, number: int) -> mmap.mmap:
        if number in self._maps:
            self._maps.move_to_end(number)
            return self._maps[number]
        name, num_bytes = self._shards[number]
        path = self._locate(name)
        check_size(path, num_bytes)
        with readable(path), open(path, "rb") as file:
            self._maps[number] = mmap.mmap(file.fileno(), num_bytes, access=mmap.ACCESS_READ)
        while len(self._maps) > _MAX_OPEN_MAPS:
            self._maps.popitem(last=False)  # chunks in use keep their map open
        return self._maps[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": OrderedDict(), "_is_checked": np.zeros_like(self._is_checked)}

    @classmethod
    def from_index(cls, name: str, entry: SplitEntry, num_types: int, locate: Locate) -> "Split":
        """Return the split that index.json describes in `entry`.

        num_types: size of the lexicon. locate(file name) returns a shard's path on this machine.
        """
        shards, numbers = entry["shards"], chunk_numbers(entry)
        return cls(
            name,
            entry["tokens"],
            entry["sentences"],
            numbers[:, 1].copy(),
            np.repeat(np.arange(len(shards), dtype=np.int64), [len(shard["chunks"]) for shard in shards]),
            num_types,
            numbers[:, 0].copy(),
            np.array([int(chunk[3], 16) for shard in shards for chunk in shard["chunks"]], np.uint64),
            [(shard["file"], shard["bytes"]) for shard in shards],
            locate,
        )


@dataclass
class Dataset:
    """A prepared corpus. splits: "train" and, if there is held-out text, "heldout"."""

    location: str
    fingerprint: str
    lexicon: Lexicon
    splits: dict[str, Split]
    index: Index

    @classmethod
    def from_index(cls, location: str, index: Index, folder: Path, locate: Locate) -> "Dataset":
        """Return the dataset that `index` describes. folder: of the lexicon. locate: gives the shards' paths."""
        types = index["lexicon"]["types"]
        splits = {name: Split.from_index(name, entry, types, locate) for name, entry in index["splits"].items()}
        checksums = {name: entry["xxh3_64"] for name, entry in index["lexicon"]["files"].items()}
        return cls(location, index["fingerprint"], Lexicon.open(folder, checksums), splits, index)


def locate_in(folder: Path) -> Locate:
    """Return a function that finds shards in the dataset's own folder; it can be pickled, as a Dataset needs."""
    return partial(Path.joinpath, folder)


def check_size(path: Path, num_bytes: int) -> None:
    """Raise DataError if the file is missing or has another size than num_bytes."""
    with readable(path):
        found = path.stat().st_size if path.exists() else None
    if found != num_bytes:
        what = "is missing" if found is None else f"has {found:,} bytes"
        raise DataError(
            f"{path} {what}, the index says {num_bytes:,} bytes; copy the file again or prepare the "
            "dataset again (overwrite=true)"
        )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into a DataError, UnreachableError unless it is a fault of the path."""
    try:
        yield
    except OSError as error:
        raise (DataError if error.errno in PATH_FAULTS else UnreachableError)(
            f"{error.filename or path} cannot be read ({error.strerror or error}); check the path, the disk and your "
            "permissions"
        ) from error
