"""Read any part of an epoch's token sequence, for both directions, directly from the memory-mapped chunks."""

from typing import NamedTuple

import numpy as np

from data_prep.dataset.files import DataError
from data_prep.dataset.lexicon import BOS_ID, EOS_ID
from data_prep.dataset.shards import Split

_SCAN_TOKENS = 128  # searched before and after a part first: sentences cut by its ends mostly begin and end there


class DirectedIds(NamedTuple):
    """inputs, targets (2, n, ...) int32: lexicon ids, 0 forward, 1 backward, each in the direction's reading order."""

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

    def read(self, start: int, stop: int) -> DirectedIds:
        """Return inputs and targets of positions [start, stop). Only these and the sentences cut there are read."""
        both = np.empty((2, stop - start + 1), dtype=np.int32)
        self.read_both_ways(start, stop, both)
        return shifted(both)

    def read_both_ways(self, start: int, stop: int, out: np.ndarray) -> None:
        """Fill out (2, stop - start + 1) int32 with x and y from start - 1 on; `shifted` makes inputs and targets."""
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


def shifted(both: np.ndarray) -> DirectedIds:
    """Return inputs and targets (2, n, ...) of x and y (2, n + 1, ...): a position's input is the target before it.

    At the start of a sentence, forward reads <S> instead of the </S> before it. At its end, backward predicts <S>.
    """
    inputs, targets = both[:, :-1].copy(), both[:, 1:].copy()
    for ids in (inputs[0], targets[1]):
        np.copyto(ids, BOS_ID, where=ids == EOS_ID)
    return DirectedIds(inputs, targets)


def _both_ways(chunk: np.ndarray, start: int, stop: int, out: np.ndarray) -> None:
    """Fill out (2, stop - start): chunk[start:stop], and the same with each sentence reversed but for its last </S>."""
    left, ends = _whole_sentences(chunk, start, stop)
    starts = np.empty_like(ends)
    starts[0], starts[1:] = left, ends[:-1] + 1
    mirror = np.repeat(starts + ends - 1, ends - starts + 1)
    mirror -= np.arange(left, left + len(mirror))
    mirror[ends - left] = ends
    out[0] = chunk[start:stop]
    out[1] = chunk.take(mirror[start - left : stop - left])


def _whole_sentences(chunk: np.ndarray, start: int, stop: int) -> tuple[int, np.ndarray]:
    """Return the start of the sentence that holds `start`, and the ends of the sentences up to the one of stop - 1."""
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
