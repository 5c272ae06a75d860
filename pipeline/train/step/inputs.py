"""The inputs of a step: its batches, and all that depends on word ids alone, made by the loader's processes.

The CPU knows every size before the batch reaches the GPU, and never waits for the GPU to learn one.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipeline.config.schema import PretrainConfig
from pipeline.data.lanes import cold_starts
from pipeline.data.windows import Batch, Transferable, changed
from pipeline.model.sampler import LogUniformSampler
from pipeline.model.softmax import Candidates, Places, find_places
from pipeline.model.token_encoder import word_lengths

_CANDIDATE_SITE = 1  # keeps the candidates' random numbers apart from those of the order


@dataclass
class GroupInputs(Transferable):
    """The part of one lane group. lengths (U,): characters of its unique words, always on the CPU.

    places: None for the full softmax.
    """

    batch: Batch
    lengths: Tensor
    places: Places | None = None

    def changed(self, kind: type, change: Callable[[Any], Any]) -> "GroupInputs":
        return GroupInputs(self.batch.changed(kind, change), self.lengths, changed(self.places, kind, change))


@dataclass
class StepInputs(Transferable):
    """The inputs of a step on one rank. candidates: the same on all ranks; None for the full softmax.

    check (1,) int32: a checksum of the step's number and candidates, which must be the same on all ranks.
    """

    step: int
    groups: list[GroupInputs]
    check: Tensor
    candidates: Candidates | None = None


def step_inputs(batches: Sequence[Batch], candidates: Candidates | None) -> StepInputs:
    """Return the inputs of a step on the CPU. batches: one for each lane group."""
    groups = []
    for batch in batches:
        places = None if candidates is None else find_places(candidates.ids, batch.targets.flatten(1))
        groups.append(GroupInputs(batch, word_lengths(batch.characters), places))
    step = batches[0].step
    check = torch.tensor([_checksum(step, candidates)], dtype=torch.int32)
    return StepInputs(step, groups, check, candidates)


def _checksum(step: int, candidates: Candidates | None) -> int:
    """Return 31 bits of the step's number and its candidates."""
    digest = zlib.crc32(step.to_bytes(8, "little"))
    for part in candidates or ():
        digest = zlib.crc32(part.numpy().tobytes(), digest)
    return digest >> 1


class Preparation:
    """Make a step's inputs from its batches: a pure function, in any process.

    Raises ConfigError if there are fewer words than candidates.
    """

    def __init__(self, config: PretrainConfig, vocab_size: int) -> None:
        self._seed, self._cold_share = config.run.seed, config.data.cold_start_share
        self._sets = 1 if config.softmax.candidates == "shared" else 2
        is_sampled = config.softmax.kind == "sampled"
        self._sampler = LogUniformSampler(vocab_size, config.softmax.num_samples) if is_sampled else None

    def __call__(self, batches: Sequence[Batch]) -> StepInputs:
        return step_inputs([self._with_cold_starts(batch) for batch in batches], self._candidates(batches[0].step))

    def _with_cold_starts(self, batch: Batch) -> Batch:
        """Start those lanes cold too that data.cold_start_share selects."""
        if not self._cold_share:
            return batch
        lanes = range(batch.first_lane, batch.first_lane + batch.word_index.shape[2])
        cold = torch.from_numpy(cold_starts(self._seed, batch.step, lanes, self._cold_share))
        return replace(batch, cold=cold if batch.cold is None else batch.cold | cold)

    def _candidates(self, step: int) -> Candidates | None:
        """Return candidates drawn from (seed, step), the same on all ranks; None for the full softmax."""
        if self._sampler is None:
            return None
        draws = [self._sampler.draw(self._seed, _CANDIDATE_SITE, step, s) for s in range(self._sets)]
        ids = torch.stack([torch.from_numpy(ids) for ids, _ in draws])
        return Candidates(ids, torch.tensor([tries for _, tries in draws]))
