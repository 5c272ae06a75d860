"""The lexicon: every word type of a corpus with its id and its count, memory-mapped for reading.

Ids 0, 1, 2 are <S>, </S>, <UNK>; then come all words by falling count in the training split, then by their
UTF-8 bytes, so that any prefix of the lexicon is the vocabulary of the most frequent words.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import DataError, atomic_file, map_npy, write_npy

BOS_ID, EOS_ID, UNK_ID = 0, 1, 2
SPECIALS = ("<S>", "</S>", "<UNK>")
TSV, UTF8, OFFSETS, COUNTS = "lexicon.tsv", "lexicon.utf8.npy", "lexicon.offsets.npy", "lexicon.counts.npy"
FILES = (TSV, UTF8, OFFSETS, COUNTS)
_LINES_A_BLOCK = 1 << 16


@dataclass(frozen=True)
class Lexicon:
    """utf8 (bytes,) uint8: all words end to end; offsets (types + 1,) int64 into it; counts (types,) int64.

    folder: where it is mapped from, None for one in memory.
    counts are occurrences in the training split; a word seen only in held-out text has 0 and stands at the end.
    """

    utf8: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray
    folder: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is not None:  # pickled, a memory map would become a copy of the whole lexicon
            return Lexicon.open, (self.folder,)
        return Lexicon, (self.utf8, self.offsets, self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def word(self, index: int) -> str:
        """The spelling of a word id, 0 <= index < len."""
        if not 0 <= index < len(self):
            raise IndexError(f"word id {index} is not in 0..{len(self) - 1}")
        return self.utf8[self.offsets[index] : self.offsets[index + 1]].tobytes().decode()

    def words(self, start: int = 0, stop: int | None = None) -> list[str]:
        """The spellings of ids start..stop-1 (stop None: to the end)."""
        return [word.decode() for word in self.words_utf8(start, stop)]

    def words_utf8(self, start: int = 0, stop: int | None = None) -> list[bytes]:
        """The spellings of ids start..stop-1 as UTF-8."""
        start, stop, _ = slice(start, stop).indices(len(self))
        if start >= stop:
            return []
        bounds = (self.offsets[start : stop + 1] - self.offsets[start]).tolist()
        text = self.utf8[self.offsets[start] : self.offsets[stop]].tobytes()
        return [text[i:j] for i, j in pairwise(bounds)]

    def byte_lengths(self) -> np.ndarray:
        """(types,) int64: the UTF-8 bytes of each word."""
        return np.diff(self.offsets)

    def tsv_blocks(self) -> Iterator[bytes]:
        """The lines of lexicon.tsv, "word<TAB>count", some ten thousand at a time."""
        for start in range(0, len(self), _LINES_A_BLOCK):
            words = self.words_utf8(start, start + _LINES_A_BLOCK)
            counts = self.counts[start : start + _LINES_A_BLOCK].tolist()
            yield b"".join(b"%s\t%d\n" % pair for pair in zip(words, counts, strict=True))

    def write(self, folder: Path) -> None:
        """The four lexicon files are in `folder`, each whole."""
        write_npy(folder / UTF8, self.utf8)
        write_npy(folder / OFFSETS, self.offsets)
        write_npy(folder / COUNTS, self.counts)
        with atomic_file(folder / TSV) as file:
            file.writelines(self.tsv_blocks())

    @classmethod
    def open(cls, folder: Path) -> "Lexicon":
        """The lexicon in `folder`, memory-mapped: nothing is read until it is asked for."""
        lexicon = cls(
            map_npy(folder / UTF8, np.uint8),
            map_npy(folder / OFFSETS, np.int64),
            map_npy(folder / COUNTS, np.int64),
            folder,
        )
        if len(lexicon.offsets) != len(lexicon) + 1 or lexicon.offsets[-1] != len(lexicon.utf8):
            raise DataError(f"the lexicon files in {folder} do not belong together; copy or prepare the dataset again")
        return lexicon

    @classmethod
    def from_words(cls, words: Sequence[str] | Sequence[bytes], counts: Sequence[int] | np.ndarray) -> "Lexicon":
        """A lexicon in memory. words: all of them in id order, <S>, </S>, <UNK> first; counts: one for each."""
        spellings = [word.encode() if isinstance(word, str) else word for word in words]
        if [word.decode() for word in spellings[:3]] != list(SPECIALS):
            raise DataError(f"a lexicon begins with {' '.join(SPECIALS)}, this one with {list(words[:3])}; add them")
        if len(spellings) != len(counts):
            raise DataError(f"{len(spellings)} words but {len(counts)} counts; give one count a word")
        offsets = np.zeros(len(spellings) + 1, np.int64)
        np.cumsum([len(word) for word in spellings], out=offsets[1:])
        return cls(np.frombuffer(b"".join(spellings), np.uint8), offsets, np.asarray(counts, np.int64))
