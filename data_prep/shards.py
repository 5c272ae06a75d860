"""The dataset on disk, written and read: webdataset tars of token ids behind one index.

A shard is a tar; its member KEY.tokens.npy is one chunk: int32 lexicon ids of whole sentences, each ended by
EOS_ID. index.json says where each chunk's ids lie in the tar, so that a chunk is a view into a memory map.
"""

import hashlib
import io
import mmap
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import DataError, HashingFile, atomic_file, read_json, save_npy
from data_prep.lexicon import FILES as LEXICON_FILES
from data_prep.lexicon import Lexicon

INDEX = "index.json"
FORMAT, VERSION = "elmo-pipeline dataset", 1
SPLITS = ("train", "heldout")
_TAR_HEADER_BYTES = 512
_MAX_OPEN_MAPS = 64


def shard_name(split: str, number: int) -> str:
    """The file name of a shard, as in train-000000.tar."""
    return f"{split}-{number:06d}.tar"


def fingerprint_of(lexicon: dict[str, Any], splits: dict[str, Any]) -> str:
    """SHA-256 (hex) over what determines the content: format version, lexicon, and each shard's hash and counts.

    lexicon and splits are those of index.json. Neither names nor dates nor options enter.
    """
    digest = hashlib.sha256(f"{FORMAT} {VERSION}\n".encode())
    digest.update("".join(f"{name} {lexicon['files'][name]['sha256']}\n" for name in LEXICON_FILES).encode())
    for split in sorted(splits):
        for shard in splits[split]["shards"]:
            digest.update(f"{split} {shard['sha256']} {shard['tokens']} {shard['sentences']}\n".encode())
    return digest.hexdigest()


def write_shard(folder: Path, split: str, number: int, chunks: Iterable[tuple[np.ndarray, int]]) -> dict[str, Any]:
    """A shard is in `folder`, whole; returns its entry for index.json.

    chunks: pairs of int32 token ids and the number of sentences they hold. The same chunks give the same bytes.
    """
    import webdataset  # pulls in torch where that is installed: seconds that only the writer should pay

    entries: list[list[int]] = []
    with atomic_file(folder / shard_name(split, number)) as file:
        hashing = HashingFile(file)
        with webdataset.TarWriter(hashing, user="", group="", mtime=0, encoder=False) as tar:
            for tokens, num_sentences in chunks:
                member = _npy_bytes(tokens)
                data_at = tar.tarstream.offset + _TAR_HEADER_BYTES + len(member) - tokens.nbytes
                key = f"{split}-{number:06d}-{len(entries):06d}"
                tar.write({"__key__": key, "tokens.npy": member})
                entries.append([data_at, len(tokens), num_sentences])
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
    """One split's chunks, in the dataset's order, as views into memory-mapped shards.

    chunk_tokens, chunk_shard (chunks,) int64: the tokens of each chunk (</S> included) and its shard's number.
    A Split can be pickled and forked: maps are opened where they are used.
    """

    name: str
    num_tokens: int
    num_sentences: int
    chunk_tokens: np.ndarray
    chunk_shard: np.ndarray
    _chunk_offset: np.ndarray
    _shard_files: list[str]
    _locate: Locate
    _maps: "OrderedDict[int, mmap.mmap]" = field(default_factory=OrderedDict)

    @property
    def num_chunks(self) -> int:
        """How many chunks chunk(i) can give."""
        return len(self.chunk_tokens)

    def chunk(self, index: int) -> np.ndarray:
        """(chunk_tokens[index],) int32, read-only: the ids of chunk `index`, a view into the shard's map."""
        shard = self._map(int(self.chunk_shard[index]))
        return np.frombuffer(shard, np.int32, int(self.chunk_tokens[index]), int(self._chunk_offset[index]))

    def chunk_offset(self, index: int) -> int:
        """Where the chunk's ids begin in its shard, in bytes."""
        return int(self._chunk_offset[index])

    def _map(self, number: int) -> mmap.mmap:
        if number in self._maps:
            self._maps.move_to_end(number)
            return self._maps[number]
        with open(self._locate(self._shard_files[number]), "rb") as file:
            self._maps[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        while len(self._maps) > _MAX_OPEN_MAPS:
            self._maps.popitem(last=False)  # chunks handed out keep their map alive
        return self._maps[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": OrderedDict()}

    @classmethod
    def from_index(cls, name: str, entry: dict[str, Any], locate: Locate) -> "Split":
        """The split that index.json describes in `entry`; locate(file name) gives a shard's path on this machine."""
        shards = entry["shards"]
        chunks = np.array([chunk for shard in shards for chunk in shard["chunks"]], np.int64).reshape(-1, 3)
        chunk_shard = np.repeat(np.arange(len(shards)), [len(shard["chunks"]) for shard in shards])
        return cls(
            name,
            entry["tokens"],
            entry["sentences"],
            chunks[:, 1].copy(),
            chunk_shard.astype(np.int64),
            chunks[:, 0].copy(),
            [shard["file"] for shard in shards],
            locate,
        )


@dataclass
class Dataset:
    """A prepared corpus: `splits` ("train", and "heldout" where there is one), `lexicon`, `fingerprint`, `index`."""

    location: str
    fingerprint: str
    lexicon: Lexicon
    splits: dict[str, Split]
    index: dict[str, Any]

    @classmethod
    def from_index(cls, location: str, index: dict[str, Any], folder: Path, locate: Locate) -> "Dataset":
        """The dataset that `index` describes, its lexicon in `folder`, its shards where `locate` says."""
        splits = {name: Split.from_index(name, entry, locate) for name, entry in index["splits"].items()}
        return cls(location, index["fingerprint"], Lexicon.open(folder), splits, index)


def locate_in(folder: Path) -> Locate:
    """Finds shards in the dataset's own folder; can be pickled, as a Dataset must."""
    return partial(Path.joinpath, folder)


def open_dataset(
    location: str | Path, cache_dir: str | Path | None = None, stage_dir: str | Path | None = None
) -> Dataset:
    """The dataset in a folder or behind a URL, ready to read; only the index is read and file sizes checked.

    cache_dir: where files of a URL dataset are kept on this node (default: remote.default_cache_dir()).
    stage_dir: where files of a folder are copied to, each when it is first used (default: they are read in place).
    Raises DataError for a folder that holds no dataset, another format version, a missing or short file.
    """
    from data_prep import remote, staging  # which build on this module

    if remote.is_url(str(location)):
        return remote.open_remote(str(location), cache_dir)
    folder = Path(location)
    if not (folder / INDEX).is_file():
        raise DataError(f"{folder} holds no {INDEX}, so it is no finished dataset; make one with elmo prep")
    index = check_index(read_json(folder / INDEX), str(folder))
    for name, num_bytes in sizes_in(index).items():
        _check_size(folder / name, num_bytes)
    if stage_dir:
        return staging.open_staged(folder, index, Path(stage_dir))
    return Dataset.from_index(str(location), index, folder, locate_in(folder))


def check_index(index: Any, location: str) -> dict[str, Any]:
    """The index, if this code can read it and it agrees with its own fingerprint; else DataError."""
    found = (index.get("format"), index.get("version")) if isinstance(index, dict) else None
    if found != (FORMAT, VERSION):
        raise DataError(
            f"{location}: {INDEX} is of format {found}, this program reads {(FORMAT, VERSION)}; "
            "prepare the corpus again or use a matching elmo-pipeline"
        )
    if fingerprint_of(index["lexicon"], index["splits"]) != index["fingerprint"]:
        raise DataError(
            f"{location}: {INDEX} does not match its own fingerprint, so it was changed or damaged; "
            "copy or prepare the dataset again"
        )
    return index


def sizes_in(index: dict[str, Any]) -> dict[str, int]:
    """Every file the index names (shards and lexicon), with its size in bytes."""
    shards = {shard["file"]: shard["bytes"] for split in index["splits"].values() for shard in split["shards"]}
    return shards | {name: entry["bytes"] for name, entry in index["lexicon"]["files"].items()}


def _check_size(path: Path, num_bytes: int) -> None:
    found = path.stat().st_size if path.exists() else None
    if found != num_bytes:
        what = "is missing" if found is None else f"has {found:,} bytes"
        raise DataError(
            f"{path} {what}, the index says {num_bytes:,} bytes; copy the file again or prepare the "
            "dataset anew (overwrite=true)"
        )
