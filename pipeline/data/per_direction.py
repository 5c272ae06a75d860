"""Batches in which each direction reads the text in its own order, as in bilm-tf (BidirectionalLMDataset)."""

import numpy as np

from pipeline.data.stream import DirectedIds
from pipeline.data.windows import Batch, TrainWindows

BACKWARD_SEED = 1 << 31  # added to run.seed, and larger than any run.seed: no two orders have the same seed


class PerDirectionWindows:
    """Batches of two orders of each epoch: one for forward, one for backward.

    There are more unique words to encode, and the two directions' gradients are less correlated. A batch is a function
    of step and lanes only.
    """

    def __init__(self, forward: TrainWindows, backward: TrainWindows) -> None:
        self._forward, self._backward = forward, backward
        self.lanes = forward.lanes

    def batch(self, step: int, lanes: range) -> Batch:
        """Return the window of a step for the given lanes."""
        forward, backward = self._forward.ids(step, lanes), self._backward.ids(step, lanes)
        inputs = np.stack([forward.inputs[0], backward.inputs[1]])
        targets = np.stack([forward.targets[0], backward.targets[1]])
        return self._forward.batch_of(DirectedIds(inputs, targets), step, lanes)
