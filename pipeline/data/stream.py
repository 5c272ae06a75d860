"""Any stretch of an epoch's token sequence, read for both directions straight from the memory-mapped chunks."""

from typing import NamedTuple

import numpy as np

from data_prep.files import DataError
from data_prep.lexicon import BOS_ID, EOS_ID
from data_prep.shards import Split

_SCAN_TOKENS = 256  # looked at together when searching for the end of a sentence


class Stretch(NamedTuple):
    """Lexicon ids (2, n) int32: row 0 forward, row 1 backward, each in its own reading order."""

    inputs: np.ndarray
    targets: np.ndarray


class Stream:
    """The chunks of a split, end to end in a given order, as one sequence x of whole sentences.

    y is x with the words of each sentence reversed. Forward reads `<S> w1..wn` for targets `w1..wn </S>`,
    backward `</S> wn..w1` for `wn..w1 <S>` (bilm-tf data.py:264-313).
    """

    def __init__(self, split: Split, order: np.ndarray) -> None:
        self._split, self._order = split, order
        self._ends = np.cumsum(split.chunk_tokens[order])

    @property
    def num_tokens(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, start: int, stop: int) -> Stretch:
        """Positions [start, stop) of the sequence. Cost: the stretch and the sentences it cuts, no more."""
        n = stop - start
        # x and y from start - 1 on: the input of a position is the target of the one before it.
        x, y = np.full(n + 1, EOS_ID, dtype=np.int32), np.full(n + 1, EOS_ID, dtype=np.int32)
        place = start - 1 if start else 0
        first = int(np.searchsorted(self._ends, place, side="right"))
        while place < stop:
            chunk = self._split.chunk(int(self._order[first]))
            chunk_start = int(self._ends[first]) - len(chunk)
            end = min(stop, chunk_start + len(chunk))
            here = slice(place - start + 1, end - start + 1)
            x[here], y[here] = _both_ways(chunk, place - chunk_start, end - chunk_start)
            place, first = end, first + 1
        inputs, targets = np.stack([x[:-1], y[:-1]]), np.stack([x[1:], y[1:]])
        inputs[0][inputs[0] == EOS_ID] = BOS_ID
        targets[1][targets[1] == EOS_ID] = BOS_ID
        return Stretch(inputs, targets)


def _both_ways(chunk: np.ndarray, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """chunk[start:stop], and the same places with each sentence's words reversed and its </S> kept last."""
    left, right = _sentence_start(chunk, start), _sentence_end(chunk, stop)
    words = np.asarray(chunk[left:right])
    ends = np.flatnonzero(words == EOS_ID)
    starts = np.concatenate([[0], ends[:-1] + 1])
    mirror = np.repeat(starts + ends - 1, ends - starts + 1)
    mirror -= np.arange(len(words))
    mirror[ends] = ends
    inside = slice(start - left, stop - left)
    return words[inside], words.take(mirror[inside])


def _sentence_start(chunk: np.ndarray, place: int) -> int:
    """Where the sentence that holds `place` begins."""
    while place > 0:
        low = max(0, place - _SCAN_TOKENS)
        ends = np.flatnonzero(chunk[low:place] == EOS_ID)
        if len(ends):
            return low + int(ends[-1]) + 1
        place = low
    return 0


def _sentence_end(chunk: np.ndarray, stop: int) -> int:
    """One past the end of the sentence that holds `stop - 1`."""
    place = stop - 1
    while place < len(chunk):
        ends = np.flatnonzero(chunk[place : place + _SCAN_TOKENS] == EOS_ID)
        if len(ends):
            return place + int(ends[0]) + 1
        place += _SCAN_TOKENS
    raise DataError("a chunk ends inside a sentence: the dataset is damaged; run `elmo prep verify` on it")
