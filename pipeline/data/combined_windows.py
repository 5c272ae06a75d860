"""Batches made of two sources of windows: two texts side by side, or one text in an order for each direction."""

from dataclasses import replace

import numpy as np
import torch

from pipeline.config.schema import require
from pipeline.data.stream import DirectedIds
from pipeline.data.windows import Batch, TrainWindows, Windows

BACKWARD_SEED = 1 << 31  # added to run.seed, and larger than any run.seed: no two orders have the same seed


def general_lanes(num_lanes: int, share: float) -> int:
    """Return how many of the lanes read the general text. Raises ConfigError if none or all would."""
    lanes = round(num_lanes * share)
    require(
        0 < lanes < num_lanes,
        f"finetune.mix_share={share} of data.lanes={num_lanes} is {lanes} lanes, and must be one at least and not all; "
        "use another share, or more lanes",
    )
    return lanes


class MixedWindows:
    """Batches whose first lanes read the domain and whose last lanes read the general text, each in its own order.

    The general text keeps the model from forgetting that text. A batch is a function of step and lanes only. An epoch
    is an epoch of the domain.
    """

    def __init__(self, domain: Windows, general: Windows) -> None:
        self._domain, self._general = domain, general
        self.lanes = domain.lanes

    def batch(self, step: int, lanes: range) -> Batch:
        """Return the window of a step for the given lanes of the whole batch."""
        cut = self._domain.lanes.num_lanes
        of_domain = range(lanes.start, min(lanes.stop, cut))
        of_general = range(max(lanes.start, cut) - cut, lanes.stop - cut)
        if not of_general:
            return self._domain.batch(step, of_domain)
        general = self._general.batch(step, of_general)
        general = replace(general, first_lane=cut + general.first_lane)
        return _side_by_side(self._domain.batch(step, of_domain), general) if of_domain else general


def _side_by_side(a: Batch, b: Batch) -> Batch:
    """Return one batch of the lanes of `a`, then those of `b`. A word of both occurs twice among the unique words."""
    characters = torch.cat([a.characters, b.characters])
    word_index = torch.cat([a.word_index, b.word_index + len(a.characters)], dim=2)
    targets = torch.cat([a.targets, b.targets], dim=2)
    cold = torch.cat([torch.full((part.word_index.shape[2],), part.resets_state) for part in (a, b)])
    both = a.resets_state and b.resets_state
    return Batch(
        a.step,
        a.first_lane,
        both,
        characters,
        word_index,
        targets,
        cold=None if a.resets_state == b.resets_state else cold,
    )


class PerDirectionWindows:
    """Batches of two orders of each epoch: one for forward, one for backward, as in bilm-tf (BidirectionalLMDataset).

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
