"""What a step reads: its batch, and all that ids alone decide, made by the loader's processes.

So sizes are known before a GPU has the words: it is never asked for one, and the CPU runs ahead of it.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.config import PretrainConfig
from pipeline.data.lanes import cold_starts
from pipeline.data.windows import Batch
from pipeline.model.sampler import LogUniformSampler
from pipeline.model.softmax import Candidates, Places, find_places
from pipeline.model.token_encoder import word_lengths

_CANDIDATE_SITE = 1  # keeps the candidates' random numbers apart from those of the order


@dataclass
class StepInputs:
    """Of a lane group. lengths (U,): characters of its unique words, on the CPU. Under the full softmax there are no
    candidates and no places. check (1,) int32: a checksum of what all ranks must have alike in this step."""

    batch: Batch
    lengths: Tensor
    check: Tensor
    candidates: Candidates | None = None
    places: Places | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """As Batch, between processes as bytes."""
        parts = (None if words is None else [t.numpy() for t in words] for words in (self.candidates, self.places))
        return _inputs_of, (self.batch, self.lengths.numpy(), self.check.numpy(), *parts)

    def pin_memory(self) -> "StepInputs":
        return self._map(self.batch.pin_memory(), lambda t: t.pin_memory())

    def to(self, device: torch.device) -> "StepInputs":
        """On their way to the device, in their turn: nobody waits if memory is pinned."""
        return self._map(self.batch.to(device), lambda t: t.to(device, non_blocking=True))

    def _map(self, batch: Batch, change: Callable[[Tensor], Tensor]) -> "StepInputs":
        candidates = None if self.candidates is None else Candidates(*map(change, self.candidates))
        places = None if self.places is None else Places(*map(change, self.places))
        return StepInputs(batch, self.lengths, change(self.check), candidates, places)


def _inputs_of(
    batch: Batch, lengths: np.ndarray, check: np.ndarray, candidates: list[np.ndarray] | None,
    places: list[np.ndarray] | None,
) -> StepInputs:  # fmt: skip
    return StepInputs(
        batch, torch.from_numpy(lengths), torch.from_numpy(check),
        None if candidates is None else Candidates(*map(torch.from_numpy, candidates)),
        None if places is None else Places(*map(torch.from_numpy, places)),
    )  # fmt: skip


def step_inputs(batch: Batch, candidates: Candidates | None) -> StepInputs:
    """batch and candidates are on the CPU."""
    places = None if candidates is None else find_places(candidates.ids, batch.targets.flatten(1))
    check = torch.tensor([_checksum(batch.step, candidates)], dtype=torch.int32)
    return StepInputs(batch, word_lengths(batch.characters), check, candidates, places)


def _checksum(step: int, candidates: Candidates | None) -> int:
    """31 bits of the step's number and its candidates."""
    parts = () if candidates is None else candidates
    digest = zlib.crc32(step.to_bytes(8, "little"))
    for part in parts:
        digest = zlib.crc32(part.numpy().tobytes(), digest)
    return digest >> 1


class Preparation:
    """Makes a run's batches ready: a pure function of them, in whatever process.

    Raises ConfigError if more candidates are wanted than there are words.
    """

    def __init__(self, config: PretrainConfig, vocab_size: int) -> None:
        self._seed, self._cold_share = config.run.seed, config.data.cold_start_share
        self._sets = 1 if config.softmax.candidates == "shared" else 2
        is_sampled = config.softmax.kind == "sampled"
        self._sampler = LogUniformSampler(vocab_size, config.softmax.num_samples) if is_sampled else None
        self._drawn: tuple[int, Candidates] | None = None  # the last step's, for the next group of its lanes

    def __call__(self, batch: Batch) -> StepInputs:
        return step_inputs(self._with_cold_starts(batch), self._candidates(batch.step))

    def _with_cold_starts(self, batch: Batch) -> Batch:
        """The lanes that data.cold_start_share falls on join those that the batch starts cold."""
        if not self._cold_share:
            return batch
        lanes = range(batch.first_lane, batch.first_lane + batch.index.shape[2])
        cold = torch.from_numpy(cold_starts(self._seed, batch.step, lanes, self._cold_share))
        return replace(batch, cold=cold if batch.cold is None else batch.cold | cold)

    def _candidates(self, step: int) -> Candidates | None:
        """Drawn from (seed, step): the same on all ranks and in all lane groups."""
        if self._sampler is None:
            return None
        if self._drawn is None or self._drawn[0] != step:
            draws = [self._sampler.draw(self._seed, _CANDIDATE_SITE, step, s) for s in range(self._sets)]
            ids = torch.stack([torch.from_numpy(ids) for ids, _ in draws])
            self._drawn = step, Candidates(ids, torch.tensor([tries for _, tries in draws]))
        return self._drawn[1]
