"""Batches for training, in a loader process if there is one, and for evaluation."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader, Dataset

from pipeline.data.datamodule import START_METHOD
from pipeline.tasks.layer_cache import LayerCache
from pipeline.tasks.networks.sequences import Batch
from pipeline.tasks.training.order import TrainingOrder

MakeBatch = Callable[[Sequence[Any]], Batch]
Texts = tuple[tuple[str, ...], ...]


class KeptLayers:
    """Read texts' layers from a cache, as the (L + 1, B, T, D) float32 tensor of a batch, zeros after a text's end."""

    def __init__(self, cache: LayerCache) -> None:
        self._cache = cache

    def __call__(self, texts: Texts) -> Tensor:
        found = [self._cache.layers(text) for text in texts]
        layers, _, dim = found[0].shape
        padded = np.zeros((layers, len(texts), max(len(text) for text in texts), dim), np.float32)
        for row, values in enumerate(found):
            padded[:, row, : values.shape[1]] = values
        return torch.from_numpy(padded)


def gather(mine: list[Any]) -> list[Any]:
    """Return the items of all ranks, those of rank 0 first."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return mine
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, mine)
    return [item for items in found for item in items]


class Steps(Dataset[tuple[Batch, float]]):
    """What each step of a rank trains on: (examples, weight of their loss). Item 0 is step `first`."""

    def __init__(
        self,
        examples: Sequence[Any],
        order: TrainingOrder,
        cut: Callable[[Any, int], Any],
        make_batch: MakeBatch,
        first: int,
        last: int,
        rank: int,
        ranks: int,
        sums_loss: bool,
    ) -> None:
        """cut: (example, step) to what the step sees of it. last: the step after the last one. sums_loss: the loss is a
        sum over examples, not a mean.
        """
        self._examples, self._order, self._cut, self._make_batch = examples, order, cut, make_batch
        self._first, self._last, self._rank, self._ranks, self._sums_loss = first, last, rank, ranks, sums_loss

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, item: int) -> tuple[Batch, float]:
        """Ranks average their gradients: the weights make of it the loss over all examples of the step."""
        step = self._first + item
        chosen = self._order.of_rank(step, self._rank, self._ranks)
        total = len(self._order.batch(step))
        weight = self._ranks * (bool(len(chosen)) if self._sums_loss else len(chosen) / total)
        if not len(chosen):  # every rank has to take part in the step
            chosen = self._order.batch(step)[:1]
        return self._make_batch([self._cut(self._examples[number], step) for number in chosen]), float(weight)


def training_loader(steps: Steps, workers: int) -> DataLoader[tuple[Batch, float]]:
    return DataLoader(
        steps,
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context=START_METHOD if workers else None,
    )


def by_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Yield the numbers of all examples, in batches of about the same length, the longest first."""
    order = sorted(range(len(lengths)), key=lambda number: -lengths[number])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
