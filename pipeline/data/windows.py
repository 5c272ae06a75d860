"""Batches as pure functions: a training batch of (dataset, seed, lanes, T, step), an evaluation batch of its window."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from data_prep.dataset.lexicon import Lexicon
from data_prep.dataset.shards import Split
from pipeline.data.lanes import EvaluationLanes, TrainLanes, epoch_order
from pipeline.data.stream import DirectedIds, Stream, shifted
from pipeline.data.vocabulary import Vocabulary
from pipeline.data.word_spellings import WordSpellings

# A stretch holds many windows of each lane, read from the shards at once. A page is the part of a stretch for which
# inputs and targets are computed at once. A batch is one window of a page.
_STRETCH_TOKENS = 16384  # of one lane
_ALL_STRETCHES_TOKENS = 3 << 20  # upper bound for all lanes together: 24 MiB
_PAGE_TOKENS = 1 << 16  # of all lanes together: 1 MiB


class Transferable:
    """Base of a dataclass of tensors that goes from a loader's process to a device.

    A field is a tensor, another Transferable, a NamedTuple or list of these, or a plain value.
    """

    def pin_memory(self) -> Self:
        return self.changed(Tensor, lambda tensor: tensor.pin_memory())

    def to(self, device: torch.device) -> Self:
        """Start the copy to the device; from pinned memory the CPU does not wait for it."""
        return self.changed(Tensor, lambda tensor: tensor.to(device, non_blocking=True))

    def changed(self, kind: type, change: Callable[[Any], Any]) -> Self:
        """Return a copy with `change` applied to each part of type `kind`."""
        return type(self)(*(changed(value, kind, change) for value in vars(self).values()))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle tensors as NumPy arrays, which go through a pipe: torch would open a shared file per tensor."""
        return {name: changed(value, Tensor, Tensor.numpy) for name, value in vars(self).items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: changed(value, np.ndarray, torch.from_numpy) for name, value in state.items()})


def changed(value: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """Return a field of a Transferable with `change` applied to each part of type `kind`."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, Transferable):
        return value.changed(kind, change)
    if isinstance(value, list):
        return [changed(part, kind, change) for part in value]
    return type(value)(*(changed(part, kind, change) for part in value)) if isinstance(value, tuple) else value


@dataclass
class Batch(Transferable):
    """One window of some lanes. Directions: 0 forward, 1 backward.

    characters (U, C) int16: spellings of the unique words. word_index (2, T, B) int32: the unique word at each place.
    targets (2, T, B) int64: vocabulary ids. mask (2, T, B) bool: positions that count (evaluation); None: all.
    cold (B,) bool: lanes that start this window from the zero state; None: all if resets_state, else none.
    """

    step: int
    first_lane: int
    resets_state: bool
    characters: Tensor
    word_index: Tensor
    targets: Tensor
    mask: Tensor | None = None
    cold: Tensor | None = None


class BatchMaker:
    """Make batches with each unique word spelled once. A scratch table makes the cost independent of the lexicon."""

    def __init__(self, lexicon: Lexicon, vocabulary: Vocabulary, max_characters: int) -> None:
        self._vocabulary, self.spellings = vocabulary, WordSpellings(lexicon, max_characters)
        self._place = np.zeros(len(lexicon), dtype=np.int32)

    def unique(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the unique ids, and the place of each of `ids` among them; nothing is sorted."""
        flat = ids.ravel().astype(np.intp)  # else NumPy would convert them at each use
        places = np.arange(len(flat), dtype=np.int32)
        self._place[flat] = places
        unique = flat[self._place.take(flat) == places]
        self._place[unique] = places[: len(unique)]
        return unique, self._place.take(flat).reshape(ids.shape)

    def make(
        self, ids: DirectedIds, *, step: int, first_lane: int, resets_state: bool, mask: np.ndarray | None = None
    ) -> Batch:
        """Return the batch of inputs and targets (2, T, B)."""
        unique, index = self.unique(ids.inputs)
        characters = torch.from_numpy(self.spellings.spell(unique))
        targets = torch.from_numpy(self._vocabulary.targets(ids.targets))
        masked = None if mask is None else torch.from_numpy(mask)
        return Batch(step, first_lane, resets_state, characters, torch.from_numpy(index), targets, masked)


class _LaneStretch(NamedTuple):
    """Windows [first, last) of an epoch for some lanes. both (2, B, tokens + 1): x and y of Stream."""

    epoch: int
    first: int
    last: int
    both: np.ndarray


class Windows(Protocol):
    """Training batches. Each is a function of step and lanes only."""

    lanes: TrainLanes

    def batch(self, step: int, lanes: range) -> Batch: ...


class TrainWindows:
    """Training batches. `batch` may be called for steps in any order, in any process; nearby steps are fastest."""

    def __init__(
        self, split: Split, maker: BatchMaker, lanes: TrainLanes, seed: int, stretch_tokens: int = _STRETCH_TOKENS
    ) -> None:
        self._split, self._maker, self.lanes, self._seed = split, maker, lanes, seed
        self._stretch_tokens = stretch_tokens
        # Caches: the epoch's stream; for each block of lanes its stretch, its page, and the ids of a new page.
        self._epoch: tuple[int, Stream] | None = None
        self._stretches: dict[range, _LaneStretch] = {}
        self._pages: dict[range, tuple[tuple[int, int], DirectedIds]] = {}
        self._new_ids: dict[range, np.ndarray] = {}  # to be spelled when the page's first batch is made

    def batch(self, step: int, lanes: range) -> Batch:
        """Return the window of a step for the given lanes."""
        return self.batch_of(self.ids(step, lanes), step, lanes)

    def batch_of(self, ids: DirectedIds, step: int, lanes: range) -> Batch:
        """Return the batch of inputs and targets (2, T, B)."""
        if (new := self._new_ids.pop(lanes, None)) is not None:
            self._maker.spellings.prefetch(new)
        resets_state = self.lanes.locate(step)[1] == 0
        return self._maker.make(ids, step=step, first_lane=lanes.start, resets_state=resets_state)

    def ids(self, step: int, lanes: range) -> DirectedIds:
        """Return inputs and targets (2, T, B) of a step, views of a page of consecutive windows."""
        epoch, window = self.lanes.locate(step)
        per_page = max(1, _PAGE_TOKENS // (len(lanes) * self.lanes.window))
        number, place = divmod(window, per_page)
        if lanes not in self._pages or self._pages[lanes][0] != (epoch, number):
            self._pages[lanes] = (epoch, number), self._page(epoch, number * per_page, per_page, lanes)
            self._new_ids[lanes] = self._pages[lanes][1].inputs
        here = slice(place * self.lanes.window, (place + 1) * self.lanes.window)
        page = self._pages[lanes][1]
        return DirectedIds(page.inputs[:, here], page.targets[:, here])

    def _page(self, epoch: int, window: int, windows: int, lanes: range) -> DirectedIds:
        """Return inputs and targets (2, tokens, B) of `windows` windows from `window` on, or of those left."""
        stretch = self._stretches.get(lanes)
        last = min(window + windows, self.lanes.windows_per_epoch)
        if stretch is None or stretch.epoch != epoch or not stretch.first <= window < last <= stretch.last:
            stretch = self._stretches[lanes] = self._read_stretch(epoch, window, windows, lanes)
        start, stop = ((number - stretch.first) * self.lanes.window for number in (window, last))
        # Copy before transposing: lanes are a multiple of the cache's size apart and would evict each other from it.
        both = np.ascontiguousarray(stretch.both[:, :, start : stop + 1])
        return shifted(np.ascontiguousarray(both.swapaxes(1, 2)))

    def _read_stretch(self, epoch: int, window: int, windows: int, lanes: range) -> _LaneStretch:
        """Read a stretch of each lane from `window` on: a multiple of `windows` windows, or those left."""
        most = min(self._stretch_tokens, _ALL_STRETCHES_TOKENS // len(lanes)) // self.lanes.window
        last = min(window + max(1, most // windows) * windows, self.lanes.windows_per_epoch)
        length = (last - window) * self.lanes.window
        both = np.empty((2, len(lanes), length + 1), dtype=np.int32)
        stream = self._stream(epoch)
        for row, lane in enumerate(lanes):
            start = lane * self.lanes.lane_tokens + window * self.lanes.window
            stream.read_both_ways(start, start + length, both[:, row])
        return _LaneStretch(epoch, window, last, both)

    def _stream(self, epoch: int) -> Stream:
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, Stream(self._split, epoch_order(self._split.chunk_shard, self._seed, epoch))
        return self._epoch[1]


class EvaluationWindows:
    """Evaluation batches: every token of a split exactly once in each direction, in the dataset's own order."""

    def __init__(self, split: Split, maker: BatchMaker, lanes: EvaluationLanes) -> None:
        self._maker, self.lanes = maker, lanes
        self._stream = Stream(split, np.arange(len(split.chunk_tokens)))

    def batch(self, window: int, lanes: range) -> Batch:
        """Return window number `window` of the given lanes; positions past a lane's end are masked."""
        inputs = np.zeros((2, self.lanes.window, len(lanes)), dtype=np.int32)
        targets, mask = np.zeros_like(inputs), np.zeros(inputs.shape, dtype=bool)
        for column, lane in enumerate(lanes):
            start, stop = self.lanes.bounds(lane, window)
            if stop > start:
                here = (slice(None), slice(0, stop - start), column)
                inputs[here], targets[here] = self._stream.read(start, stop)
                mask[here] = True
        ids = DirectedIds(inputs, targets)
        return self._maker.make(ids, step=window, first_lane=lanes.start, resets_state=window == 0, mask=mask)
