"""Sorted spills: the intermediate form of the text between the passes.

A spill holds some millions of tokens of one unit: sentences sorted by their random keys, as ids of the spill's own
lexicon. A shard is a slice of every spill, so merging slices shuffles globally.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from data_prep.dataset.files import DataError, atomic_file, map_npy, write_bytes, write_npy
from data_prep.workspace import WORK_REMEDY

T = TypeVar("T")
SPILL_TOKENS = 8 << 20  # bounds the memory of a worker, and keeps a spill's ids below 2^24
MARK_ID = 0  # local id of a sentence's end
_GATHER_TOKENS = 1 << 18


class Ids(dict[T, int]):
    """Ids in order of first appearance. A dict that fills itself runs no Python code for known words."""

    def __missing__(self, word: T) -> int:
        self[word] = number = len(self)
        return number


@dataclass(frozen=True)
class Spill:
    """A spill in its folder, memory-mapped for reading."""

    folder: Path

    @property
    def lengths(self) -> np.ndarray:
        """(sentences,) uint32: tokens of each sentence, its end mark included."""
        return map_npy(self.folder / "lengths.npy", np.uint32)

    @property
    def keys(self) -> np.ndarray | None:
        """(sentences,) uint64, ascending; None if the text's order is kept."""
        path = self.folder / "keys.npy"
        return map_npy(path, np.uint64) if path.exists() else None

    @property
    def counts(self) -> np.ndarray:
        """(local types,) int64: occurrences of each local id in the spill."""
        return np.array(map_npy(self.folder / "counts.npy", np.int64))

    def words(self) -> list[bytes]:
        """Return the (local types - 1) spellings of local ids 1, 2, ... Raises DataError for another number."""
        words = (self.folder / "words.txt").read_bytes().split(b"\n")[:-1]
        if len(words) != len(self.counts) - 1:
            raise self.damaged("words.txt")
        return words

    def delete_lexicon(self) -> None:
        """Delete words and counts, which only pass 2 reads. With many rare words they take more room than the ids."""
        for name in ("words.txt", "counts.npy"):
            (self.folder / name).unlink(missing_ok=True)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Return (stop - start,) int32: local ids of the spill's tokens start..stop-1."""
        packed = np.fromfile(self.folder / "tokens.u24", np.uint8, 3 * (stop - start), offset=3 * start)
        if len(packed) != 3 * (stop - start):
            raise self.damaged("tokens.u24")
        return _unpack(packed)

    def merged_tokens(self, start: int, stop: int) -> np.ndarray:
        """Return (stop - start,) int32: the same tokens as ids of the lexicon. Raises DataError for unknown ones."""
        tokens, ids = self.tokens(start, stop), self.read_map()
        if tokens.max(initial=0) >= len(ids):
            raise self.damaged("tokens.u24")
        return ids[tokens]

    def damaged(self, name: str) -> DataError:
        """Return the error for a file of the spill that is not as it was written."""
        return DataError(f"{self.folder / name} is damaged; {WORK_REMEDY}")

    def write_map(self, global_ids: np.ndarray) -> None:
        """Write (local types,) int32: the lexicon id of each local id. read_map() returns it."""
        write_npy(self.folder / "map.npy", global_ids)

    def read_map(self) -> np.ndarray:
        """Return (local types,) int32: what write_map() last wrote."""
        return np.array(map_npy(self.folder / "map.npy", np.int32))


def write_spill(
    folder: Path, tokens: np.ndarray, lengths: np.ndarray, keys: np.ndarray | None, words: Sequence[str]
) -> None:
    """Write a spill durably into the new folder `folder`, sentences sorted by key.

    Sentences with equal keys, or all if keys is None, keep the order given.
    """
    assert int(lengths.sum()) == len(tokens) and len(words) < 1 << 24
    folder.mkdir()
    write_npy(folder / "counts.npy", np.bincount(tokens, minlength=len(words) + 1))
    order = np.arange(len(lengths)) if keys is None else np.argsort(keys, kind="stable")
    if keys is not None:
        write_npy(folder / "keys.npy", keys[order])
    write_npy(folder / "lengths.npy", lengths[order].astype(np.uint32))
    with atomic_file(folder / "tokens.u24") as file:
        for part in gather(tokens, lengths, order):
            file.write(_pack(part).data)
    write_bytes(folder / "words.txt", "".join(word + "\n" for word in words).encode())


def gather(
    tokens: np.ndarray, lengths: np.ndarray, order: np.ndarray, part_tokens: int = _GATHER_TOKENS
) -> Iterator[np.ndarray]:
    """Yield the sentences of `tokens` (cut by `lengths`) in the order `order`, in parts of about part_tokens.

    A part holds whole sentences; it ends with the sentence that reaches its size.
    """
    lengths = lengths.astype(np.int64)
    starts = (np.cumsum(lengths) - lengths)[order]
    lengths = lengths[order]
    for first, stop in part_bounds(lengths, part_tokens):
        length, start = lengths[first:stop], starts[first:stop]
        shift = start - (np.cumsum(length) - length)
        yield tokens[np.repeat(shift, length) + np.arange(int(length.sum()))]


def part_bounds(lengths: np.ndarray, part_tokens: int) -> list[tuple[int, int]]:
    """Return the sentence range of each part: a part ends with the sentence that reaches a multiple of part_tokens."""
    part = (np.cumsum(lengths, dtype=np.int64) - 1) // part_tokens
    cuts = (np.flatnonzero(np.diff(part)) + 1).tolist()
    return list(zip([0, *cuts], [*cuts, len(lengths)], strict=True)) if len(lengths) else []


def _pack(tokens: np.ndarray) -> np.ndarray:
    little = np.ascontiguousarray(tokens, "<i4").view(np.uint8).reshape(-1, 4)
    return np.ascontiguousarray(little[:, :3])


def _unpack(packed: np.ndarray) -> np.ndarray:
    little = np.zeros((len(packed) // 3, 4), np.uint8)
    little[:, :3] = packed.reshape(-1, 3)
    return little.view("<i4").reshape(-1)
