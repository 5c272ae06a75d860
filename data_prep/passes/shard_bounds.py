"""Which sentences make which shard: slices of the runs, fixed before any shard is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_prep.dataset.files import DataError
from data_prep.passes.sorted_spills import Run
from data_prep.plan import Options

_KEY_END = 1 << 64


@dataclass(frozen=True)
class Bounds:
    """sentences, tokens (runs, shards + 1) int64: shard s is made of bounds s..s+1 of each run."""

    sentences: np.ndarray
    tokens: np.ndarray

    @property
    def num_shards(self) -> int:
        """Shards of this split."""
        return self.sentences.shape[1] - 1

    @property
    def num_sentences(self) -> int:
        """Sentences of this split."""
        return int((self.sentences[:, -1] - self.sentences[:, 0]).sum())

    @property
    def num_tokens(self) -> int:
        """Tokens of this split, sentence ends included."""
        return int((self.tokens[:, -1] - self.tokens[:, 0]).sum())


def deal(runs: Sequence[Run], splits: Sequence[str], options: Options) -> dict[str, Bounds]:
    """The bounds of each split's shards. splits: for each run, the split its input was given for.

    Raises DataError where the held-out part cannot be had.
    """
    in_train = np.array([split == "train" for split in splits], bool)
    lengths = [int(run.lengths.shape[0]) for run in runs]
    whole = np.array([(0, n if train else 0) for n, train in zip(lengths, in_train, strict=True)], np.int64)
    if not in_train.all():
        own = np.array([(0, 0 if train else n) for n, train in zip(lengths, in_train, strict=True)], np.int64)
        ranges = {"train": whole, "heldout": own}
    elif options.heldout:
        cut = _heldout_cut(runs, whole[:, 1], options)
        ranges = (
            {"train": np.stack([0 * cut, cut], 1), "heldout": np.stack([cut, whole[:, 1]], 1)}
            if options.shuffle == "none"
            else {"train": np.stack([cut, whole[:, 1]], 1), "heldout": np.stack([0 * cut, cut], 1)}
        )
    else:
        ranges = {"train": whole}
    return {split: _cut_into_shards(runs, bounds, options) for split, bounds in ranges.items()}


def _heldout_cut(runs: Sequence[Run], lengths: np.ndarray, options: Options) -> np.ndarray:
    """(runs,) int64: where in each run the held-out sentences end (shuffled), or begin (order kept: the last ones)."""
    total = int(lengths.sum())
    wanted = options.heldout if isinstance(options.heldout, int) else None
    if wanted is not None and wanted >= total:
        raise DataError(f"heldout={wanted} of {total} sentences leaves none to train on; hold out fewer")
    if options.shuffle == "none":
        first = total - (round(options.heldout * total) if wanted is None else wanted)
        cut = np.clip(first - (np.cumsum(lengths) - lengths), 0, lengths)
        num_heldout = total - first
    else:
        end = int(options.heldout * _KEY_END) if wanted is None else _key_after(runs, wanted)
        cut = np.array([_below(run, end) for run in runs], np.int64)
        num_heldout = int(cut.sum())
    if not 0 < num_heldout < total:
        raise DataError(
            f"heldout={options.heldout} would hold out {num_heldout} of {total} sentences; choose a share "
            "or number that leaves some on both sides"
        )
    return cut


def _keys(run: Run) -> np.ndarray:
    keys = run.keys
    assert keys is not None
    return keys


def _below(run: Run, key: int) -> int:
    keys = _keys(run)
    return len(keys) if key >= _KEY_END else int(np.searchsorted(keys, np.uint64(key)))


def _key_after(runs: Sequence[Run], count: int) -> int:
    """The least key that at least `count` sentences lie below (more only where sentences share one: documents)."""
    low, high = 0, _KEY_END
    while low < high:
        middle = (low + high) // 2
        if sum(_below(run, middle) for run in runs) >= count:
            high = middle
        else:
            low = middle + 1
    return low


def _cut_into_shards(runs: Sequence[Run], ranges: np.ndarray, options: Options) -> Bounds:
    """Bounds of about equal shards within `ranges` (runs, 2); none is empty."""
    token_ranges = np.array([_token_offsets(run, bounds) for run, bounds in zip(runs, ranges, strict=True)])
    sizes = token_ranges[:, 1] - token_ranges[:, 0]
    num_shards = max(1, -(-int(sizes.sum()) // options.shard_tokens))
    if options.shuffle == "none":
        cuts = _equal_token_cuts(runs, ranges, token_ranges, num_shards)
    else:
        cuts = _equal_key_cuts(runs, ranges, num_shards)
    filled = np.flatnonzero(np.diff(cuts.sum(axis=0), prepend=-1))  # a large document may leave a shard none
    cuts = cuts[:, filled]
    return Bounds(cuts, np.array([_token_offsets(run, row) for run, row in zip(runs, cuts, strict=True)]))


def _token_offsets(run: Run, sentences: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(run.lengths, dtype=np.int64)])[sentences]


def _equal_key_cuts(runs: Sequence[Run], ranges: np.ndarray, num_shards: int) -> np.ndarray:
    """Shards as equal parts of the key space, from the first key that is in `ranges` to the last."""
    edges = [(int(_keys(run)[a]), int(_keys(run)[b - 1])) for run, (a, b) in zip(runs, ranges, strict=True) if a < b]
    low, high = min(edge[0] for edge in edges), max(edge[1] for edge in edges) + 1
    inner = np.array([low + (high - low) * i // num_shards for i in range(1, num_shards)], np.uint64)
    return np.array(
        [[a, *np.clip(np.searchsorted(_keys(run), inner), a, b), b] for run, (a, b) in zip(runs, ranges, strict=True)],
        np.int64,
    )


def _equal_token_cuts(runs: Sequence[Run], ranges: np.ndarray, token_ranges: np.ndarray, num_shards: int) -> np.ndarray:
    """Shards as equal parts of the text as it runs; a sentence that straddles a cut goes with the part before."""
    sizes = token_ranges[:, 1] - token_ranges[:, 0]
    before = np.cumsum(sizes) - sizes
    inner = np.array([int(sizes.sum()) * i // num_shards for i in range(1, num_shards)], np.int64)
    rows = []
    for run, (a, b), (start, _), offset in zip(runs, ranges, token_ranges, before, strict=True):
        starts = np.concatenate([[0], np.cumsum(run.lengths, dtype=np.int64)])[:-1] - start + offset
        rows.append([a, *np.clip(np.searchsorted(starts, inner), a, b), b])
    return np.array(rows, np.int64)
