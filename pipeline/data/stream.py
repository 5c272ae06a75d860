"""Any stretch of an epoch's token sequence, read for both directions straight from the memory-mapped chunks."""

from typing import NamedTuple

import numpy as np

from data_prep.dataset.files import DataError
from data_prep.dataset.lexicon import BOS_ID, EOS_ID
from data_prep.dataset.shards import Split

_SCAN_TOKENS = 128  # around a stretch, in which the sentences that it cuts most likely begin and end


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
        both = np.empty((2, stop - start + 1), dtype=np.int32)
        self.read_both_ways(start, stop, both)
        return shifted(both)

    def read_both_ways(self, start: int, stop: int, out: np.ndarray) -> None:
        """out (2, stop - start + 1) int32: x and y from start - 1 on, of which `shifted` makes inputs and targets."""
        place = start - 1
        if not start:
            out[:, 0], place = EOS_ID, 0
        first = int(self._ends.searchsorted(place, side="right"))
        while place < stop:
            chunk = self._split.chunk(int(self._order[first]))
            chunk_start = int(self._ends[first]) - len(chunk)
            end = min(stop, chunk_start + len(chunk))
            _both_ways(chunk, place - chunk_start, end - chunk_start, out[:, place - start + 1 : end - start + 1])
            place, first = end, first + 1


def shifted(both: np.ndarray) -> Stretch:
    """Inputs and targets (2, n, ...) of x and y (2, n + 1, ...): the input of a position is the target before it.

    Where a sentence begins, forward reads <S> in place of the </S> before it; backward is to foretell <S> at its end.
    """
    inputs, targets = both[:, :-1].copy(), both[:, 1:].copy()
    for ids in (inputs[0], targets[1]):
        np.copyto(ids, BOS_ID, where=ids == EOS_ID)
    return Stretch(inputs, targets)


def _both_ways(chunk: np.ndarray, start: int, stop: int, out: np.ndarray) -> None:
    """out (2, stop - start): chunk[start:stop], and there each sentence's words reversed, its </S> kept last."""
    left, ends = _whole_sentences(chunk, start, stop)
    starts = np.empty_like(ends)
    starts[0], starts[1:] = left, ends[:-1] + 1
    mirror = np.repeat(starts + ends - 1, ends - starts + 1)
    mirror -= np.arange(left, left + len(mirror))
    mirror[ends - left] = ends
    out[0] = chunk[start:stop]
    out[1] = chunk.take(mirror[start - left : stop - left])


def _whole_sentences(chunk: np.ndarray, start: int, stop: int) -> tuple[int, np.ndarray]:
    """Where the sentence that holds `start` begins; where it and the next end, up to the one that holds stop - 1."""
    reach = _SCAN_TOKENS
    while True:
        low, high = max(0, start - reach), min(len(chunk), stop + reach)
        ends = (chunk[low:high] == EOS_ID).nonzero()[0]
        ends += low
        first, last = ends.searchsorted((start, stop - 1))
        if last == len(ends) and high == len(chunk):
            raise DataError("a chunk ends inside a sentence: the dataset is damaged; run `elmo prep verify` on it")
        if last < len(ends) and (first or not low):
            return int(ends[first - 1]) + 1 if first else 0, ends[first : last + 1]
        reach *= 4
