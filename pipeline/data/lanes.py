"""The order of training data as pure arithmetic: the token at each place of the batch, at any step, on any rank.

An epoch is one long sequence of tokens. Lane l, a row of the global batch, owns a fixed part of it; window w is T
tokens of a lane. Nothing here reads data or keeps state.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.config.schema import ConfigError

_COLD = 2  # part of the seed, so that these random numbers differ from those of order and candidates


@dataclass(frozen=True)
class TrainLanes:
    """Lanes of equal length. Each epoch leaves out a tail shorter than lanes x window, of other text each time."""

    num_tokens: int
    num_lanes: int
    window: int

    def __post_init__(self) -> None:
        if self.windows_per_epoch == 0:
            raise ConfigError(
                f"the training split has {self.num_tokens} tokens, fewer than data.lanes={self.num_lanes} x "
                f"data.window={self.window}; use fewer lanes or more text"
            )

    @property
    def windows_per_epoch(self) -> int:
        return self.num_tokens // (self.num_lanes * self.window)

    @property
    def lane_tokens(self) -> int:
        return self.windows_per_epoch * self.window

    @property
    def tokens_per_step(self) -> int:
        return self.num_lanes * self.window

    def locate(self, step: int) -> tuple[int, int]:
        """Return (epoch, window within the epoch) of a step, both from 0."""
        return divmod(step, self.windows_per_epoch)

    def steps(self, epochs: float, max_steps: int | None) -> int:
        """Return the number of steps of `epochs` epochs, at most max_steps. Raises ConfigError if there is none."""
        steps = round(epochs * self.windows_per_epoch)
        if steps == 0:
            raise ConfigError(
                f"train.epochs={epochs} is less than a step of this text, of which an epoch has "
                f"{self.windows_per_epoch:,}; train for more epochs, or with fewer lanes"
            )
        return steps if max_steps is None else min(steps, max_steps)


@dataclass(frozen=True)
class EvaluationLanes:
    """Lanes that cover every token exactly once. The last lane may be shorter; its rest is masked."""

    num_tokens: int
    num_lanes: int
    window: int

    @property
    def lane_tokens(self) -> int:
        return -(-self.num_tokens // self.num_lanes)

    @property
    def num_windows(self) -> int:
        return -(-self.lane_tokens // self.window)

    def bounds(self, lane: int, window: int) -> tuple[int, int]:
        """Return [start, stop) of a lane's window in the sequence; empty past the lane's end."""
        end = min((lane + 1) * self.lane_tokens, self.num_tokens)
        start = min(lane * self.lane_tokens + window * self.window, end)
        return start, min(start + self.window, end)


def lane_share(num_lanes: int, rank: int, num_ranks: int) -> range:
    """Return a rank's contiguous block of lanes. All shares are equal if num_ranks divides num_lanes."""
    return range(num_lanes * rank // num_ranks, num_lanes * (rank + 1) // num_ranks)


def lane_groups(share: range, num_groups: int) -> list[range]:
    """Cut a rank's lanes into equal groups, which are computed one after the other."""
    size = len(share) // num_groups
    return [range(share.start + g * size, share.start + (g + 1) * size) for g in range(num_groups)]


def epoch_order(chunk_shard: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """Return chunk numbers in the order in which an epoch reads them: shards permuted, then chunks within each shard.

    chunk_shard (chunks,): the shard of each chunk, rising. The order is a function of (seed, epoch) only.
    """
    # Raw bits, because NumPy guarantees them across its versions, and does not guarantee permutation().
    bits = np.random.Philox(np.random.SeedSequence((seed, epoch)))
    num_shards = int(chunk_shard[-1]) + 1 if len(chunk_shard) else 0
    shard_rank = np.argsort(np.argsort(bits.random_raw(num_shards), kind="stable"))
    return np.lexsort((bits.random_raw(len(chunk_shard)), shard_rank[chunk_shard]))


def cold_starts(seed: int, step: int, lanes: range, share: float) -> np.ndarray:
    """Return (lanes,) bool: lanes that start this step from the zero state, each with probability `share`.

    A function of (seed, step, lane) only: one generator per step, whose l-th raw bits are lane l's.
    """
    bits = np.random.Philox(np.random.SeedSequence((seed, step, _COLD))).random_raw(lanes.stop)[lanes.start :]
    return bits < np.uint64(min(share * 2.0**64, 2.0**64 - 2048))
