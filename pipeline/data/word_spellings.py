"""Character rows of words, kept: few words make up most of a text, and spelling many at once costs little more."""

import numpy as np

from data_prep.dataset.lexicon import Lexicon
from pipeline.characters import character_rows

_FREQUENT_WORDS = 1 << 15  # of the lexicon, which always are kept: 3 MiB
_RARE_WORDS = 1 << 16  # room for others, until all of those are forgotten: 6 MiB


class WordRows:
    """Costs 4 bytes a word of the lexicon, of which only those pages are touched that hold words read."""

    def __init__(self, lexicon: Lexicon, max_characters: int) -> None:
        self._lexicon, self._max_characters = lexicon, max_characters
        self._row = np.zeros(len(lexicon), dtype=np.int32)  # of each word among the kept; 0: none
        self._num_frequent = min(len(lexicon), _FREQUENT_WORDS)
        room = 1 + self._num_frequent + _RARE_WORDS
        self._words = np.empty(room, dtype=np.intp)
        self._rows = np.empty((room, max_characters), dtype=np.int16)
        self._used = 1
        self._add(np.arange(self._num_frequent))

    def of(self, words: np.ndarray) -> np.ndarray:
        """(U, max_characters) int16 of unique words (U,)."""
        rows = self._row.take(words)
        if not rows.all():
            self._keep(words)
            rows = self._row.take(words)
        return self._rows.take(rows, axis=0)

    def expect(self, ids: np.ndarray) -> None:
        """The words of ids, of any shape, are spelled together: sooner done than window by window."""
        self._keep(np.unique(ids[ids >= self._num_frequent]))

    def _keep(self, words: np.ndarray) -> None:
        """All of the unique words are kept from now on, for the time being."""
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
