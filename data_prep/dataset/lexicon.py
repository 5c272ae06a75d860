"""The lexicon: every word type of a corpus with its id and its count, memory-mapped for reading.

Ids 0, 1, 2 are <S>, </S>, <UNK>. All words follow, by falling count in the training split, then by their UTF-8 bytes.
So any prefix of the lexicon is a vocabulary of the most frequent words.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.files import NPY_HEADER_BYTES, DataError, atomic_file, map_npy, write_npy, xxh3_64_of

BOS_ID, EOS_ID, UNK_ID = 0, 1, 2
SPECIALS = ("<S>", "</S>", "<UNK>")
NUM_SPECIALS = len(SPECIALS)  # the id of the first word of the text
TSV, UTF8, OFFSETS, COUNTS = "lexicon.tsv", "lexicon.utf8.npy", "lexicon.offsets.npy", "lexicon.counts.npy"
FILES = (TSV, UTF8, OFFSETS, COUNTS)
_LINES_PER_BLOCK = 1 << 16


def file_sizes(types: int) -> dict[str, int]:
    """Return the sizes in bytes of the lexicon files whose size depends on the number of types only."""
    return {OFFSETS: NPY_HEADER_BYTES + 8 * (types + 1), COUNTS: NPY_HEADER_BYTES + 8 * types}


@dataclass(frozen=True)
class Lexicon:
    """utf8 (bytes,) uint8: all words end to end; offsets (types + 1,) int64 into utf8; counts (types,) int64.

    counts: occurrences in the training split; a word of held-out text only has 0 and comes last.
    folder: of the mapped files, None for a lexicon in memory.
    """

    utf8: np.ndarray
    offsets: np.ndarray
    counts: np.ndarray
    folder: Path | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is not None:  # a pickled memory map would be a copy of the whole lexicon
            return Lexicon.open, (self.folder,)
        return Lexicon, (self.utf8, self.offsets, self.counts)

    def __len__(self) -> int:
        return len(self.counts)

    def word(self, index: int) -> str:
        """Return the spelling of a word id, 0 <= index < len."""
        if not 0 <= index < len(self):
            raise IndexError(f"word id {index} is not in 0..{len(self) - 1}")
        return self.words(index, index + 1)[0]

    def words(self, start: int = 0, stop: int | None = None) -> list[str]:
        """Return the spellings of ids start..stop-1 (stop None: to the end)."""
        try:
            return [word.decode() for word in self.words_utf8(start, stop)]
        except UnicodeDecodeError as error:
            raise _damaged(self.folder, f"a word is not UTF-8: {error}") from error

    def words_utf8(self, start: int = 0, stop: int | None = None) -> list[bytes]:
        """Return the spellings of ids start..stop-1 as UTF-8."""
        start, stop, _ = slice(start, stop).indices(len(self))
        if start >= stop:
            return []
        bounds = (self.offsets[start : stop + 1] - self.offsets[start]).tolist()
        text = self.utf8[self.offsets[start] : self.offsets[stop]].tobytes()
        return [text[i:j] for i, j in pairwise(bounds)]

    def byte_lengths(self) -> np.ndarray:
        """Return (types,) int64: the number of UTF-8 bytes of each word."""
        return np.diff(self.offsets)

    def tsv_blocks(self) -> Iterator[bytes]:
        """Yield the lines of lexicon.tsv, "word<TAB>count", some ten thousand at a time."""
        for start in range(0, len(self), _LINES_PER_BLOCK):
            words = self.words_utf8(start, start + _LINES_PER_BLOCK)
            counts = self.counts[start : start + _LINES_PER_BLOCK].tolist()
            yield b"".join(b"%s\t%d\n" % pair for pair in zip(words, counts, strict=True))

    def write(self, folder: Path) -> None:
        """Write the four lexicon files into `folder`, each atomically."""
        write_npy(folder / UTF8, self.utf8)
        write_npy(folder / OFFSETS, self.offsets)
        write_npy(folder / COUNTS, self.counts)
        with atomic_file(folder / TSV) as file:
            file.writelines(self.tsv_blocks())

    @classmethod
    def open(cls, folder: Path, checksums: Mapping[str, str] | None = None) -> "Lexicon":
        """Return the lexicon in `folder`, memory-mapped. checksums: XXH3-64 of its files by name, checked first.

        Raises DataError for files that are damaged or do not belong together.
        """
        for name in (UTF8, OFFSETS, COUNTS):
            if checksums is not None and xxh3_64_of(folder / name) != checksums[name]:
                raise _damaged(folder / name, "its checksum is not the one in the index")
        lexicon = cls(
            map_npy(folder / UTF8, np.uint8),
            map_npy(folder / OFFSETS, np.int64),
            map_npy(folder / COUNTS, np.int64),
            folder,
        )
        offsets = lexicon.offsets
        if len(lexicon) < len(SPECIALS) or len(offsets) != len(lexicon) + 1 or offsets[-1] != len(lexicon.utf8):
            raise _damaged(folder, "the lexicon files do not belong together")
        if offsets[0] != 0 or np.any(offsets[1:] < offsets[:-1]) or lexicon.counts.min() < 0:
            raise _damaged(folder, f"offsets in {OFFSETS} fall, or counts in {COUNTS} are negative")
        return lexicon

    @classmethod
    def from_words(cls, words: Sequence[str] | Sequence[bytes], counts: Sequence[int] | np.ndarray) -> "Lexicon":
        """Return a lexicon in memory. words: in id order, <S>, </S>, <UNK> first; counts: one for each word."""
        spellings = [word.encode() if isinstance(word, str) else word for word in words]
        if [word.decode() for word in spellings[:NUM_SPECIALS]] != list(SPECIALS):
            first = list(words[:NUM_SPECIALS])
            raise DataError(f"a lexicon begins with {' '.join(SPECIALS)}, this one with {first}; add them")
        if len(spellings) != len(counts):
            raise DataError(f"{len(spellings)} words but {len(counts)} counts; give one count a word")
        offsets = np.zeros(len(spellings) + 1, np.int64)
        np.cumsum([len(word) for word in spellings], out=offsets[1:])
        return cls(np.frombuffer(b"".join(spellings), np.uint8), offsets, np.asarray(counts, np.int64))


def _damaged(where: Path | None, what: str) -> DataError:
    return DataError(f"{where or 'the lexicon'} is damaged ({what}); copy or prepare the dataset again")
