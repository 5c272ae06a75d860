"""Spellings of words as rows of character ids, in a cache: few words make up most of a text."""

import numpy as np

from data_prep.dataset.lexicon import Lexicon
from pipeline.characters import character_rows

_FREQUENT_WORDS = 1 << 15  # the first words of the lexicon, which always stay in the cache: 3 MiB
_RARE_WORDS = 1 << 16  # room for other words, which are all dropped when it is full: 6 MiB


class WordSpellings:
    """Spell words and cache their rows.

    Needs 4 bytes of address space for each word of the lexicon; only pages that hold words of the text are touched.
    """

    def __init__(self, lexicon: Lexicon, max_characters: int) -> None:
        self._lexicon, self._max_characters = lexicon, max_characters
        self._row = np.zeros(len(lexicon), dtype=np.int32)  # the row of each cached word; 0: not cached
        self._num_frequent = min(len(lexicon), _FREQUENT_WORDS)
        room = 1 + self._num_frequent + _RARE_WORDS
        self._words = np.empty(room, dtype=np.intp)
        self._rows = np.empty((room, max_characters), dtype=np.int16)
        self._used = 1
        self._add(np.arange(self._num_frequent))

    def spell(self, words: np.ndarray) -> np.ndarray:
        """Return (U, max_characters) int16: the characters of unique words (U,)."""
        rows = self._row.take(words)
        if not rows.all():
            self._cache(words)
            rows = self._row.take(words)
        return self._rows.take(rows, axis=0)

    def prefetch(self, ids: np.ndarray) -> None:
        """Cache the words of ids, of any shape: spelling many words at once is faster than window by window."""
        self._cache(np.unique(ids[ids >= self._num_frequent]))

    def _cache(self, words: np.ndarray) -> None:
        """Put the unique words into the cache. If it is full, first drop all rare words."""
        new = words[self._row.take(words) == 0]
        if self._used + len(new) > len(self._rows):
            self._row[self._words[1 + self._num_frequent : self._used]] = 0
            self._used = 1 + self._num_frequent
            new = words[self._row.take(words) == 0]
            self._make_room(len(new))
        self._add(new)

    def _make_room(self, count: int) -> None:
        missing = self._used + count - len(self._rows)
        if missing > 0:
            self._words = np.concatenate([self._words, np.empty(missing, self._words.dtype)])
            self._rows = np.concatenate([self._rows, np.empty((missing, self._max_characters), self._rows.dtype)])

    def _add(self, new: np.ndarray) -> None:
        here = slice(self._used, self._used + len(new))
        self._words[here] = new
        self._rows[here] = character_rows(self._lexicon.utf8, self._lexicon.offsets, new, self._max_characters)
        self._row[new] = np.arange(here.start, here.stop, dtype=np.int32)
        self._used = here.stop
