"""What a step reads, where it is computed: uploaded in one go, with all that ids alone decide.

Sizes are known on the CPU before a GPU has the words, so that it is never asked for one and the CPU runs ahead of it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.data.windows import Batch
from pipeline.model.gpu import upload
from pipeline.model.softmax import Candidates, Places, find_places
from pipeline.model.token_encoder import word_lengths


class StepInputs(NamedTuple):
    """A lane group's window. lengths (U,): characters of its unique words, on the CPU. Without a sampled loss no
    candidates and no places."""

    batch: Batch
    lengths: Tensor
    candidates: Candidates | None
    places: Places | None


def step_inputs(batch: Batch, candidates: Candidates | None, device: torch.device) -> StepInputs:
    """batch and candidates are on the CPU."""
    lengths = word_lengths(batch.characters)
    if candidates is None:
        return StepInputs(batch.to(device), lengths, None, None)
    places = find_places(candidates.ids, batch.targets.flatten(1))
    candidates = Candidates(*(upload(part, device) for part in candidates))
    return StepInputs(batch.to(device), lengths, candidates, Places(*(upload(part, device) for part in places)))
