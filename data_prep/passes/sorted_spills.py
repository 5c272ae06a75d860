"""Runs: the intermediate form of the text between the passes.

A run is some millions of tokens of one unit, complete in itself: sentences in the order of their random keys, as
ids of a lexicon of its own. A shard then is a slice of every run, and the global shuffle a merge of slices.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_prep.dataset.files import atomic_file, map_npy, write_bytes, write_npy

RUN_TOKENS = 8 << 20  # bounds the memory of a worker; with it a run's ids fit 24 bits
MARK_ID = 0  # local id of a sentence's end
_GATHER_TOKENS = 1 << 18


@dataclass(frozen=True)
class Run:
    """A run in its folder, read through memory maps."""

    folder: Path

    @property
    def lengths(self) -> np.ndarray:
        """(sentences,) uint32: tokens of each sentence, its end mark included."""
        return map_npy(self.folder / "lengths.npy", np.uint32)

    @property
    def keys(self) -> np.ndarray | None:
        """(sentences,) uint64, ascending; None where the text's order is kept."""
        path = self.folder / "keys.npy"
        return map_npy(path, np.uint64) if path.exists() else None

    @property
    def counts(self) -> np.ndarray:
        """(local types,) int64: occurrences of each local id in the run."""
        return np.array(map_npy(self.folder / "counts.npy", np.int64))

    def words(self) -> list[bytes]:
        """(local types - 1): the spellings of local ids 1, 2, ..."""
        return (self.folder / "words.txt").read_bytes().split(b"\n")[:-1]

    def drop_lexicon(self) -> None:
        """Words and counts are gone from the disk: pass 2 alone reads them, and of rare words they are the most."""
        for name in ("words.txt", "counts.npy"):
            (self.folder / name).unlink(missing_ok=True)

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) int32: local ids of the run's tokens start..stop-1."""
        packed = np.fromfile(self.folder / "tokens.u24", np.uint8, 3 * (stop - start), offset=3 * start)
        return _unpack(packed)

    def write_map(self, global_ids: np.ndarray) -> None:
        """read_map() gives these: (local types,) int32, the lexicon id of each local one."""
        write_npy(self.folder / "map.npy", global_ids)

    def read_map(self) -> np.ndarray:
        """(local types,) int32: what write_map() was last given."""
        return np.array(map_npy(self.folder / "map.npy", np.int32))


def write_run(
    folder: Path, tokens: np.ndarray, lengths: np.ndarray, keys: np.ndarray | None, words: Sequence[str]
) -> None:
    """A run is in the new folder `folder`, sentences by key (equal keys and None: in the order given), durably."""
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
    """The sentences of `tokens` (cut by `lengths`) in the order `order`, in parts of about part_tokens.

    A part holds whole sentences; it ends with the sentence that fills it up.
    """
    lengths = lengths.astype(np.int64)
    starts = (np.cumsum(lengths) - lengths)[order]
    lengths = lengths[order]
    for first, stop in part_bounds(lengths, part_tokens):
        length, start = lengths[first:stop], starts[first:stop]
        shift = start - (np.cumsum(length) - length)
        yield tokens[np.repeat(shift, length) + np.arange(int(length.sum()))]


def part_bounds(lengths: np.ndarray, part_tokens: int) -> list[tuple[int, int]]:
    """Sentence ranges of the parts: a part ends with the sentence in which a multiple of part_tokens is reached."""
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
