"""Batches as pure functions: training windows of (dataset, seed, lanes, T, step), evaluation ones of their place."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from data_prep.dataset.lexicon import UNK_ID, Lexicon
from data_prep.dataset.shards import Split
from pipeline.data.lanes import EvaluationLanes, TrainLanes, epoch_order
from pipeline.data.stream import Stream, Stretch, shifted
from pipeline.data.word_spellings import WordRows

_VISIT_TOKENS = 16384  # of a lane, read together, so that a lane is visited once for many windows
_BLOCK_TOKENS = 3 << 20  # of all lanes, which are kept meanwhile: 24 MiB
_PAGE_TOKENS = 1 << 16  # of all lanes, made ready together: 1 MiB


@dataclass
class Batch:
    """One window of some lanes. Directions: 0 forward, 1 backward.

    characters (U, C) int16: unique words, spelled. index (2, T, B) int32: which of them is read where.
    targets (2, T, B) int64: vocabulary ids. mask (2, T, B) bool: counted positions (evaluation), or None: all.
    cold (B,) bool: lanes that start this window from the zero state; None: as resets_state says, all or none.
    """

    step: int
    first_lane: int
    resets_state: bool
    characters: Tensor
    index: Tensor
    targets: Tensor
    mask: Tensor | None = None
    cold: Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes as bytes in a pipe: torch would open a shared file for each tensor, which takes longer."""
        return _batch_of, tuple(v.numpy() if isinstance(v, Tensor) else v for v in vars(self).values())

    def pin_memory(self) -> "Batch":
        return self._map(lambda t: t.pin_memory())

    def to(self, device: torch.device) -> "Batch":
        return self._map(lambda t: t.to(device, non_blocking=True))

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        mask, cold = (None if t is None else change(t) for t in (self.mask, self.cold))
        tensors = (change(self.characters), change(self.index), change(self.targets), mask, cold)
        return Batch(self.step, self.first_lane, self.resets_state, *tensors)


def _batch_of(*fields: Any) -> Batch:
    values: list[Any] = [torch.from_numpy(v) if isinstance(v, np.ndarray) else v for v in fields]
    return Batch(*values)


class Vocabulary:
    """Target ids of lexicon ids: a prefix of the lexicon keeps its ids, any other word is <UNK>.

    mapping (lexicon words,) int32: vocabulary ids under a foreign vocabulary, made by `vocabulary_map`.
    """

    def __init__(self, size: int, mapping: np.ndarray | None = None) -> None:
        self.size, self._mapping = size, mapping

    def targets(self, lexicon_ids: np.ndarray) -> np.ndarray:
        if self._mapping is not None:
            return self._mapping[lexicon_ids].astype(np.int64)
        return np.where(lexicon_ids < self.size, lexicon_ids, UNK_ID).astype(np.int64)


def vocabulary_map(lexicon: Lexicon, words: list[str]) -> np.ndarray:
    """(lexicon words,) int32: for each word of a dataset its id in a foreign vocabulary, <UNK> where it has none."""
    ids = {word: number for number, word in enumerate(words)}
    block = 1 << 16
    parts = [
        np.fromiter((ids.get(w, UNK_ID) for w in lexicon.words(s, min(s + block, len(lexicon)))), dtype=np.int32)
        for s in range(0, len(lexicon), block)
    ]
    return np.concatenate(parts)


class BatchMaker:
    """Spells the unique words of a window; its scratch table makes that cost the batch, never the lexicon."""

    def __init__(self, lexicon: Lexicon, vocabulary: Vocabulary, max_characters: int) -> None:
        self._vocabulary, self.rows = vocabulary, WordRows(lexicon, max_characters)
        self._place = np.zeros(len(lexicon), dtype=np.int32)

    def unique(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(unique ids, where each of `ids` is among them), without sorting."""
        flat = ids.ravel().astype(np.intp)  # NumPy would convert them at each use
        places = np.arange(len(flat), dtype=np.int32)
        self._place[flat] = places
        unique = flat[self._place.take(flat) == places]
        self._place[unique] = places[: len(unique)]
        return unique, self._place.take(flat).reshape(ids.shape)

    def make(
        self, inputs: np.ndarray, targets: np.ndarray, *, step: int, first_lane: int, resets_state: bool,
        mask: np.ndarray | None = None,
    ) -> Batch:  # fmt: skip
        """inputs, targets (2, T, B): lexicon ids."""
        unique, index = self.unique(inputs)
        return Batch(
            step, first_lane, resets_state, torch.from_numpy(self.rows.of(unique)), torch.from_numpy(index),
            torch.from_numpy(self._vocabulary.targets(targets)), None if mask is None else torch.from_numpy(mask),
        )  # fmt: skip


class _Visit(NamedTuple):
    """Windows [first, last) of an epoch, of some lanes: x and y as both (2, B, tokens + 1), see Stream."""

    epoch: int
    first: int
    last: int
    both: np.ndarray


class Windows(Protocol):
    """Training batches, each a function of step and lanes alone."""

    lanes: TrainLanes

    def batch(self, step: int, lanes: range) -> Batch: ...


class TrainWindows:
    """Training batches of a block of lanes: `batch(step)` may be asked for in any order, in any process."""

    def __init__(
        self, split: Split, maker: BatchMaker, lanes: TrainLanes, seed: int, visit_tokens: int = _VISIT_TOKENS
    ) -> None:
        self._split, self._maker, self.lanes, self._seed = split, maker, lanes, seed
        self._visit_tokens = visit_tokens
        self._epoch: tuple[int, Stream] | None = None
        self._visits: dict[range, _Visit] = {}
        self._pages: dict[range, tuple[tuple[int, int], Stretch]] = {}
        self._unspelled: dict[range, np.ndarray] = {}  # of pages from which no batch was made yet

    def batch(self, step: int, lanes: range) -> Batch:
        """The window of a step for the given lanes."""
        return self.batch_of(self.stretch(step, lanes), step, lanes)

    def batch_of(self, stretch: Stretch, step: int, lanes: range) -> Batch:
        """The batch of inputs and targets (2, T, B)."""
        if (ids := self._unspelled.pop(lanes, None)) is not None:
            self._maker.rows.expect(ids)
        resets_state = self.lanes.locate(step)[1] == 0
        return self._maker.make(*stretch, step=step, first_lane=lanes.start, resets_state=resets_state)

    def stretch(self, step: int, lanes: range) -> Stretch:
        """Inputs and targets (2, T, B), views of a page of consecutive windows."""
        epoch, window = self.lanes.locate(step)
        per_page = max(1, _PAGE_TOKENS // (len(lanes) * self.lanes.window))
        number, place = divmod(window, per_page)
        if lanes not in self._pages or self._pages[lanes][0] != (epoch, number):
            self._pages[lanes] = (epoch, number), self._page(epoch, number * per_page, per_page, lanes)
            self._unspelled[lanes] = self._pages[lanes][1].inputs
        here = slice(place * self.lanes.window, (place + 1) * self.lanes.window)
        page = self._pages[lanes][1]
        return Stretch(page.inputs[:, here], page.targets[:, here])

    def _page(self, epoch: int, window: int, windows: int, lanes: range) -> Stretch:
        """Inputs and targets (2, tokens, B) of so many windows, or those left, cut from the lanes' last visit."""
        visited = self._visits.get(lanes)
        last = min(window + windows, self.lanes.windows_per_epoch)
        if visited is None or visited.epoch != epoch or not visited.first <= window < last <= visited.last:
            visited = self._visits[lanes] = self._visit(epoch, window, windows, lanes)
        start, stop = ((number - visited.first) * self.lanes.window for number in (window, last))
        # The copy first: lanes lie a multiple of the cache's size apart, and would drive each other out of it.
        both = np.ascontiguousarray(visited.both[:, :, start : stop + 1])
        return shifted(np.ascontiguousarray(both.swapaxes(1, 2)))

    def _visit(self, epoch: int, window: int, windows: int, lanes: range) -> _Visit:
        """Of each lane many windows, from `window` on: what is worth a visit, in multiples of `windows`."""
        most = min(self._visit_tokens, _BLOCK_TOKENS // len(lanes)) // self.lanes.window
        last = min(window + max(1, most // windows) * windows, self.lanes.windows_per_epoch)
        length = (last - window) * self.lanes.window
        both = np.empty((2, len(lanes), length + 1), dtype=np.int32)
        stream = self._stream(epoch)
        for row, lane in enumerate(lanes):
            start = lane * self.lanes.lane_tokens + window * self.lanes.window
            stream.read_both_ways(start, start + length, both[:, row])
        return _Visit(epoch, window, last, both)

    def _stream(self, epoch: int) -> Stream:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, Stream(self._split, epoch_order(self._split.chunk_shard, self._seed, epoch))
        return self._epoch[1]


class EvaluationWindows:
    """Every token of a split exactly once each way, in the dataset's own order, whatever the batch."""

    def __init__(self, split: Split, maker: BatchMaker, lanes: EvaluationLanes) -> None:
        self._maker, self.lanes = maker, lanes
        self._stream = Stream(split, np.arange(len(split.chunk_tokens)))

    def batch(self, window: int, lanes: range) -> Batch:
        """Window number `window` of the given lanes; positions past a lane's end are masked."""
        inputs = np.zeros((2, self.lanes.window, len(lanes)), dtype=np.int32)
        targets, mask = np.zeros_like(inputs), np.zeros(inputs.shape, dtype=bool)
        for column, lane in enumerate(lanes):
            start, stop = self.lanes.bounds(lane, window)
            if stop > start:
                here = (slice(None), slice(0, stop - start), column)
                inputs[here], targets[here] = self._stream.read(start, stop)
                mask[here] = True
        return self._maker.make(
            inputs, targets, step=window, first_lane=lanes.start, resets_state=window == 0, mask=mask
        )
