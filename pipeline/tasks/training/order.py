"""The order of training examples as arithmetic: the seed and a step's number give the examples of the step.

Nothing has to be stored to resume. Examples of about the same length share a batch, so that little is computed on
padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

_POOL_BATCHES = 64  # examples of so many batches are sorted by length together


@dataclass(frozen=True)
class TrainingOrder:
    """The batches of all epochs. lengths: tokens of each example. batch_size: examples of a step, of all ranks.

    Every example is used once an epoch. All batches of an epoch but one hold `batch_size` examples.
    """

    lengths: Sequence[int]
    batch_size: int
    seed: int

    @property
    def steps_an_epoch(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Return the numbers of the examples of a step; steps count from 0 over all epochs."""
        epoch, place = divmod(step, self.steps_an_epoch)
        if self._latest.get("epoch") != epoch:
            self._latest.update(epoch=epoch, batches=self._epoch(epoch))
        batches: list[np.ndarray] = self._latest["batches"]
        return batches[place]

    def of_rank(self, step: int, rank: int, ranks: int) -> np.ndarray:
        """Return a rank's share of the step's examples, which may be empty in the last batch of an epoch."""
        return self.batch(step)[rank::ranks]

    @cached_property
    def _latest(self) -> dict[str, Any]:
        return {}

    def _epoch(self, epoch: int) -> list[np.ndarray]:
        chance = np.random.default_rng([self.seed, epoch])
        order, pool = chance.permutation(len(self.lengths)), _POOL_BATCHES * self.batch_size
        lengths = np.asarray(self.lengths)[order]
        by_length = np.concatenate(
            [
                order[start : start + pool][np.argsort(lengths[start : start + pool], kind="stable")]
                for start in range(0, len(order), pool)
            ]
        )
        batches = np.split(by_length, range(self.batch_size, len(by_length), self.batch_size))
        return [batches[place] for place in chance.permutation(len(batches))]
