"""index.json: what a dataset's folder holds. Every name, size and count in it is checked when it is read."""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge, Le, Len, Predicate
from pydantic import FailFast  # stops at the first fault: lists may have a million entries
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.files import NPY_HEADER_BYTES, DataError
from data_prep.dataset.lexicon import FILES as LEXICON_FILES
from data_prep.dataset.lexicon import NUM_SPECIALS, file_sizes
from data_prep.dataset.typed_json import Count, FileName, Sha256, parse_json

INDEX = "index.json"
FORMAT, VERSION = "elmo-pipeline dataset", 2
SPLITS = ("train", "heldout")
TAR_HEADER_BYTES = 512
MAX_INDEX_BYTES = 32 << 20  # 370,000 chunks, which hold 97 billion tokens
_MAX_TYPES = 1 << 31  # ids are int32
_REMEDY = "copy or prepare the dataset again"


def _is_xxh3(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{16}", text) is not None


Xxh3 = Annotated[str, Predicate(_is_xxh3)]
Positive = Annotated[int, Ge(1), Le(1 << 60)]
Chunk = tuple[Count, Positive, Positive, Xxh3]
"""A chunk: byte offset in the shard, tokens, sentences, XXH3-64 of the tokens' bytes."""


class FileEntry(TypedDict):
    """A lexicon file. sha256 is checked when the file is copied, xxh3_64 when the dataset is opened."""

    bytes: Count
    sha256: Sha256
    xxh3_64: Xxh3


if TYPE_CHECKING:
    Files = dict[str, FileEntry]
else:  # fixed keys: with a dict, pydantic would describe each of a million wrong keys
    Files = TypedDict("Files", dict.fromkeys(LEXICON_FILES, FileEntry))


class LexiconEntry(TypedDict):
    """types: number of word types, <S>, </S> and <UNK> included."""

    types: Annotated[int, Ge(NUM_SPECIALS), Le(_MAX_TYPES)]
    files: Files


class ShardEntry(TypedDict):
    """A shard, as `shards.write_shard` returns it."""

    file: FileName
    bytes: Count
    sha256: Sha256
    tokens: Count
    sentences: Count
    chunks: Annotated[list[Chunk], Len(1), FailFast()]


class SplitEntry(TypedDict):
    """tokens, sentences: totals of all shards."""

    tokens: Count
    sentences: Count
    shards: Annotated[list[ShardEntry], Len(1), FailFast()]


if TYPE_CHECKING:
    Splits = dict[str, SplitEntry]
else:  # fixed keys, as for Files; other splits are not read and not part of the fingerprint
    Splits = TypedDict("Splits", dict.fromkeys(SPLITS, SplitEntry), total=False)


class Index(TypedDict):
    """index.json. made and summary are information for the user (summary.py); training needs neither.

    information_sha256: `information_sha256` of the two.
    """

    format: str
    version: int
    fingerprint: Sha256
    made: NotRequired[Any]
    summary: NotRequired[Any]
    information_sha256: NotRequired[Any]
    lexicon: LexiconEntry
    splits: Splits


class _Version(TypedDict):
    format: NotRequired[Any]
    version: NotRequired[Any]


def read_index(folder: Path) -> Index:
    """Return the checked index of the dataset in `folder`. Raises DataError if it is missing or damaged."""
    path = folder / INDEX
    if not path.is_file():
        raise DataError(f"{folder} holds no {INDEX}, so it is no finished dataset; make one with elmo prep")
    if (size := path.stat().st_size) > MAX_INDEX_BYTES:
        raise DataError(f"{path} has {size:,} bytes, more than the {MAX_INDEX_BYTES:,} of any index; {_REMEDY}")
    return check_index(path.read_bytes(), str(folder))


def check_index(data: bytes, location: str) -> Index:
    """Return the index that `data` holds. Raises DataError for another format version or an inconsistent index."""
    name = f"{location}: {INDEX}"
    head = parse_json(data, _Version, name, _REMEDY)
    if (found := (head.get("format"), head.get("version"))) != (FORMAT, VERSION):
        raise DataError(
            f"{name} is of format {found}, this program reads {(FORMAT, VERSION)}; prepare the corpus again "
            "(overwrite=true) or use a matching elmo-pipeline"
        )
    index: Index = parse_json(data, Index, name, _REMEDY)
    for fault in _faults(index):
        raise DataError(f"{name} is damaged ({fault}); {_REMEDY}")
    if fingerprint_of(index["lexicon"], index["splits"]) != index["fingerprint"]:
        raise DataError(f"{name} does not match its own fingerprint, so it was changed or damaged; {_REMEDY}")
    return index


def fingerprint_of(lexicon: LexiconEntry, splits: dict[str, SplitEntry]) -> str:
    """Return the SHA-256 (hex) of what determines the content: format version, lexicon, each shard's hash and counts.

    Names, dates and options are not part of it.
    """
    digest = hashlib.sha256(f"{FORMAT} {VERSION}\n".encode())
    digest.update("".join(f"{name} {lexicon['files'][name]['sha256']}\n" for name in LEXICON_FILES).encode())
    for split in sorted(splits):
        for shard in splits[split]["shards"]:
            digest.update(f"{split} {shard['sha256']} {shard['tokens']} {shard['sentences']}\n".encode())
    return digest.hexdigest()


def information_sha256(made: Any, summary: Any) -> str:
    """Return the SHA-256 (hex) of the two sections of an index that only inform, as JSON with sorted keys."""
    return hashlib.sha256(json.dumps([made, summary], sort_keys=True).encode()).hexdigest()


def files_in(index: Index) -> dict[str, FileEntry | ShardEntry]:
    """Return the entry of every file that the index names, lexicon files first."""
    files: dict[str, FileEntry | ShardEntry] = dict(index["lexicon"]["files"])
    return files | {shard["file"]: shard for split in index["splits"].values() for shard in split["shards"]}


def chunk_numbers(split: SplitEntry) -> np.ndarray:
    """Return (chunks, 3) int64: byte offset, tokens and sentences of each chunk, shard after shard."""
    return np.array([chunk[:3] for shard in split["shards"] for chunk in shard["chunks"]], np.int64).reshape(-1, 3)


def _faults(index: Index) -> Iterator[str]:
    """Yield each inconsistency of the index, as a part of a sentence."""
    names = [shard["file"] for split in index["splits"].values() for shard in split["shards"]]
    if len(set(names) | {INDEX, *LEXICON_FILES}) != len(names) + 1 + len(LEXICON_FILES):
        yield "it names a file twice"
    elif not names:
        yield "it names no shard"
    else:
        files, types = index["lexicon"]["files"], index["lexicon"]["types"]
        for name, num_bytes in file_sizes(types).items():
            if files[name]["bytes"] != num_bytes:
                yield f"{name} has {files[name]['bytes']:,} bytes, which is not the size of {types:,} types"
        for name, split in index["splits"].items():
            yield from _faults_of_split(name, split)


def _tar_bytes(end: int) -> int:
    """Return the size of a tar file whose last member ends at byte `end`: its end marks, in whole records."""
    blocks = -(-end // tarfile.BLOCKSIZE) + 2
    return -(-blocks * tarfile.BLOCKSIZE // tarfile.RECORDSIZE) * tarfile.RECORDSIZE


def _faults_of_split(name: str, split: SplitEntry) -> Iterator[str]:
    shards = split["shards"]
    firsts = np.cumsum([0, *(len(shard["chunks"]) for shard in shards)])
    numbers = chunk_numbers(split)
    offsets, tokens, sentences = numbers.T
    ends = offsets + 4 * tokens
    starts = np.concatenate([[0], ends[:-1]])
    starts[firsts[:-1]] = 0
    sizes = np.repeat([shard["bytes"] for shard in shards], np.diff(firsts))
    is_placed = (offsets % 4 == 0) & (offsets - starts >= TAR_HEADER_BYTES + NPY_HEADER_BYTES) & (ends <= sizes)
    if len(wrong := np.flatnonzero(~is_placed | (sentences > tokens))):
        yield f"chunk {wrong[0]} of {name} cannot lie where it says or hold what it says"
        return
    wanted = np.array([_tar_bytes(int(ends[last - 1])) for last in firsts[1:]])
    if len(wrong := np.flatnonzero(wanted != [shard["bytes"] for shard in shards])):
        yield f"{shards[wrong[0]]['file']} has {shards[wrong[0]]['bytes']:,} bytes, not the size of its chunks"
    for column, what in ((1, "tokens"), (2, "sentences")):
        by_shard = np.add.reduceat(numbers[:, column], firsts[:-1]).tolist()
        recorded = [shard["tokens"] if what == "tokens" else shard["sentences"] for shard in shards]
        if by_shard != recorded or sum(by_shard) != (split["tokens"] if what == "tokens" else split["sentences"]):
            yield f"the {what} of chunks, shards and split {name} do not add up"
