"""Two texts in one batch: some lanes read a domain, the others general text, so that it is not forgotten."""

from dataclasses import replace

import torch

from pipeline.config.schema import require
from pipeline.data.windows import Batch, Windows


def general_lanes(num_lanes: int, share: float) -> int:
    """How many of the lanes read the general text. Raises ConfigError where that would be none, or all."""
    lanes = round(num_lanes * share)
    require(
        0 < lanes < num_lanes,
        f"finetune.mix_share={share} of data.lanes={num_lanes} is {lanes} lanes, and must be one at least and not all; "
        "use another share, or more lanes",
    )
    return lanes


class MixedWindows:
    """Batches whose first lanes read the domain and whose last ones the general text, each in an order of its own.

    As in TrainWindows a batch is a function of the step and the lanes alone. An epoch is one of the domain.
    """

    def __init__(self, domain: Windows, general: Windows) -> None:
        self._domain, self._general = domain, general
        self.lanes = domain.lanes

    def batch(self, step: int, lanes: range) -> Batch:
        """The window of a step for the given lanes of the whole batch."""
        cut = self._domain.lanes.num_lanes
        of_domain = range(lanes.start, min(lanes.stop, cut))
        of_general = range(max(lanes.start, cut) - cut, lanes.stop - cut)
        if not of_general:
            return self._domain.batch(step, of_domain)
        general = self._general.batch(step, of_general)
        general = replace(general, first_lane=cut + general.first_lane)
        return _side_by_side(self._domain.batch(step, of_domain), general) if of_domain else general


def _side_by_side(a: Batch, b: Batch) -> Batch:
    """One batch with the lanes of `a`, then those of `b`; a word that both hold stands twice among the unique ones."""
    cold = [torch.full((part.index.shape[2],), part.resets_state) for part in (a, b)]
    both = a.resets_state and b.resets_state
    return Batch(
        a.step, a.first_lane, both, torch.cat([a.characters, b.characters]),
        torch.cat([a.index, b.index + len(a.characters)], dim=2), torch.cat([a.targets, b.targets], dim=2),
        cold=torch.cat(cold) if a.resets_state != b.resets_state else None,
    )  # fmt: skip
