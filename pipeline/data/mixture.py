"""Two texts in one batch: some lanes read the domain, the others general text, so that the model does not forget it."""

from dataclasses import replace

import torch

from pipeline.config.schema import require
from pipeline.data.windows import Batch, Windows


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

    A batch is a function of step and lanes only. An epoch is an epoch of the domain.
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
    cold = [torch.full((part.word_index.shape[2],), part.resets_state) for part in (a, b)]
    both = a.resets_state and b.resets_state
    return Batch(
        a.step, a.first_lane, both, torch.cat([a.characters, b.characters]),
        torch.cat([a.word_index, b.word_index + len(a.characters)], dim=2), torch.cat([a.targets, b.targets], dim=2),
        cold=torch.cat(cold) if a.resets_state != b.resets_state else None,
    )  # fmt: skip
