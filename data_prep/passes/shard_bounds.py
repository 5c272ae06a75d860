"""The bounds of shards: which slice of each spill makes which shard, fixed before any shard is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.dataset.files import DataError
from data_prep.options import PrepConfig
from data_prep.passes.sorted_spills import Spill

_KEY_END = 1 << 64


@dataclass(frozen=True)
class Bounds:
    """Bounds of a split's shards: sentences and tokens, each (spills, shards + 1) int64.

    Shard s holds, of each spill, what lies between bounds s and s + 1.
    """

    sentences: np.ndarray
    tokens: np.ndarray

    @property
    def num_shards(self) -> int:
        """Number of shards of this split."""
        return self.sentences.shape[1] - 1

    @property
    def num_sentences(self) -> int:
        """Number of sentences of this split."""
        return int((self.sentences[:, -1] - self.sentences[:, 0]).sum())

    @property
    def num_tokens(self) -> int:
        """Number of tokens of this split, sentence ends included."""
        return int((self.tokens[:, -1] - self.tokens[:, 0]).sum())


def shard_bounds(spills: Sequence[Spill], splits: Sequence[str], options: PrepConfig) -> dict[str, Bounds]:
    """Return the bounds of each split's shards. splits: for each spill, the split that its input was given for.

    Raises DataError if the held-out part would be empty or take all sentences.
    """
    in_train = np.array([split == "train" for split in splits], bool)
    lengths = [int(spill.lengths.shape[0]) for spill in spills]
    whole = np.array([(0, n if train else 0) for n, train in zip(lengths, in_train, strict=True)], np.int64)
    if not in_train.all():
        own = np.array([(0, 0 if train else n) for n, train in zip(lengths, in_train, strict=True)], np.int64)
        ranges = {"train": whole, "heldout": own}
    elif options.heldout:
        cut = _heldout_cut(spills, whole[:, 1], options)
        ranges = (
            {"train": np.stack([0 * cut, cut], 1), "heldout": np.stack([cut, whole[:, 1]], 1)}
            if options.shuffle == "none"
            else {"train": np.stack([cut, whole[:, 1]], 1), "heldout": np.stack([0 * cut, cut], 1)}
        )
    else:
        ranges = {"train": whole}
    return {split: _cut_into_shards(spills, bounds, options) for split, bounds in ranges.items()}


def _heldout_cut(spills: Sequence[Spill], lengths: np.ndarray, options: PrepConfig) -> np.ndarray:
    """Return (spills,) int64: the sentence of each spill at which the held-out ones end, or begin if shuffle="none"."""
    assert options.heldout is not None
    total = int(lengths.sum())
    wanted = options.heldout if isinstance(options.heldout, int) else None
    if wanted is not None and wanted >= total:
        raise DataError(f"heldout={wanted} of {total} sentences leaves none to train on; hold out fewer")
    if options.shuffle == "none":
        first = total - (round(options.heldout * total) if wanted is None else wanted)
        cut = np.clip(first - (np.cumsum(lengths) - lengths), 0, lengths)
        num_heldout = total - first
    else:
        end = int(options.heldout * _KEY_END) if wanted is None else _key_after(spills, wanted)
        cut = np.array([_below(spill, end) for spill in spills], np.int64)
        num_heldout = int(cut.sum())
    if not 0 < num_heldout < total:
        raise DataError(
            f"heldout={options.heldout} would hold out {num_heldout} of {total} sentences; choose a share "
            "or number that leaves some on both sides"
        )
    return cut


def _keys(spill: Spill) -> np.ndarray:
    keys = spill.keys
    assert keys is not None
    return keys


def _below(spill: Spill, key: int) -> int:
    keys = _keys(spill)
    return len(keys) if key >= _KEY_END else int(np.searchsorted(keys, np.uint64(key)))


def _key_after(spills: Sequence[Spill], count: int) -> int:
    """Return the least key with at least `count` sentences below it (more if a document's sentences share a key)."""
    low, high = 0, _KEY_END
    while low < high:
        middle = (low + high) // 2
        if sum(_below(spill, middle) for spill in spills) >= count:
            high = middle
        else:
            low = middle + 1
    return low


def _cut_into_shards(spills: Sequence[Spill], ranges: np.ndarray, options: PrepConfig) -> Bounds:
    """Return the bounds of about equal shards within `ranges` (spills, 2); no shard is empty."""
    token_ranges = np.array([_token_offsets(spill, bounds) for spill, bounds in zip(spills, ranges, strict=True)])
    sizes = token_ranges[:, 1] - token_ranges[:, 0]
    num_shards = max(1, -(-int(sizes.sum()) // options.shard_tokens))
    if options.shuffle == "none":
        cuts = _equal_token_cuts(spills, ranges, token_ranges, num_shards)
    else:
        cuts = _equal_key_cuts(spills, ranges, num_shards)
    filled = np.flatnonzero(np.diff(cuts.sum(axis=0), prepend=-1))  # a large document may leave a shard empty
    cuts = cuts[:, filled]
    return Bounds(cuts, np.array([_token_offsets(spill, row) for spill, row in zip(spills, cuts, strict=True)]))


def _token_offsets(spill: Spill, sentences: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(spill.lengths, dtype=np.int64)])[sentences]


def _equal_key_cuts(spills: Sequence[Spill], ranges: np.ndarray, num_shards: int) -> np.ndarray:
    """Cut into equal parts of the key space, from the first key in `ranges` to the last."""
    edges = [
        (int(_keys(spill)[a]), int(_keys(spill)[b - 1])) for spill, (a, b) in zip(spills, ranges, strict=True) if a < b
    ]
    low, high = min(edge[0] for edge in edges), max(edge[1] for edge in edges) + 1
    inner = np.array([low + (high - low) * i // num_shards for i in range(1, num_shards)], np.uint64)
    return np.array(
        [
            [a, *np.clip(np.searchsorted(_keys(spill), inner), a, b), b]
            for spill, (a, b) in zip(spills, ranges, strict=True)
        ],
        np.int64,
    )


def _equal_token_cuts(
    spills: Sequence[Spill], ranges: np.ndarray, token_ranges: np.ndarray, num_shards: int
) -> np.ndarray:
    """Cut the text, in its own order, into equal parts; a sentence that lies across a cut goes into the part before."""
    sizes = token_ranges[:, 1] - token_ranges[:, 0]
    before = np.cumsum(sizes) - sizes
    inner = np.array([int(sizes.sum()) * i // num_shards for i in range(1, num_shards)], np.int64)
    rows = []
    for spill, (a, b), (start, _), offset in zip(spills, ranges, token_ranges, before, strict=True):
        starts = np.concatenate([[0], np.cumsum(spill.lengths, dtype=np.int64)])[:-1] - start + offset
        rows.append([a, *np.clip(np.searchsorted(starts, inner), a, b), b])
    return np.array(rows, np.int64)
