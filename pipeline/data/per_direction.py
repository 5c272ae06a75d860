"""Batches whose directions read the text in orders of their own, as those of bilm-tf do (BidirectionalLMDataset)."""

import numpy as np

from pipeline.data.stream import Stretch
from pipeline.data.windows import Batch, TrainWindows

BACKWARD_SEED = 1 << 31  # more than any run.seed: no run's forward order is another's backward one


class SeparateWindows:
    """Forward reads one order of each epoch, backward another; more words to encode, gradients that are less alike.

    As in TrainWindows a batch is a function of the step and the lanes alone.
    """

    def __init__(self, forward: TrainWindows, backward: TrainWindows) -> None:
        self._forward, self._backward = forward, backward
        self.lanes = forward.lanes

    def batch(self, step: int, lanes: range) -> Batch:
        """The window of a step for the given lanes."""
        forward, backward = (windows.stretch(step, lanes) for windows in (self._forward, self._backward))
        both = Stretch(*(np.stack([one[0], other[1]]) for one, other in zip(forward, backward, strict=True)))
        return self._forward.batch_of(both, step, lanes)
