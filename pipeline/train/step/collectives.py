"""The few collective operations that training needs; with one process they do nothing."""

import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeAlias

import torch.distributed as dist
from torch import Tensor

from pipeline.train.outcome import Failed

Group: TypeAlias = Any
Pending: TypeAlias = Any
"""An operation to wait for; None if there is nothing to wait for."""


_POLL_SECONDS = 0.01


def exchange_timeout(*limits: float | None) -> timedelta:
    """Return how long ranks wait for each other: longer than the watchdog's limits, as it says more than torch does."""
    return timedelta(minutes=10, seconds=max(30 * 86400.0 if limit is None else limit for limit in limits))


class RanksDiffer(Failed):
    """A value that must be the same on all ranks differs."""


def require_same(values: Sequence[int], what: str) -> None:
    """Raise RanksDiffer that names the ranks whose value differs from the most frequent one. values: one per rank."""
    if len(set(values)) == 1:
        return
    usual = max(values, key=values.count)
    ranks = ", ".join(str(rank) for rank, value in enumerate(values) if value != usual)
    raise RanksDiffer(
        f"of {len(values)} ranks, these have other {what} than the rest: {ranks}; "
        "their machines have other code, other data, or another or a faulty processor: exclude them, and resume"
    )


def world_size() -> int:
    """Return the number of ranks."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def leave() -> None:
    """End the threads of torch.distributed, which may abort when Python exits. Every rank must call it."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def new_group(timeout: timedelta) -> Group | None:
    """Return a group of all ranks whose operations do not queue behind those of others. Every rank must call it."""
    return dist.new_group(timeout=timeout) if world_size() > 1 else None


def wait_for(pending: Pending, beat: Callable[[], None]) -> None:
    """Wait for a started operation; call `beat` meanwhile."""
    while pending is not None and not pending.is_completed():
        beat()
        time.sleep(_POLL_SECONDS)
    if pending is not None:
        pending.wait()


def broadcast_(values: Tensor) -> None:
    """Copy rank 0's values into `values` on every rank."""
    if world_size() > 1:
        dist.broadcast(values, 0)


def mean_over_ranks_(values: Tensor) -> None:
    """Replace `values` by their mean over ranks, the same bits on every rank."""
    if world_size() > 1:
        dist.all_reduce(values)
        values.div_(world_size())


def start_all_reduce(values: Tensor, group: Group | None) -> Pending:
    """Start to sum `values` over ranks in place; wait for the returned operation."""
    return dist.all_reduce(values, group=group, async_op=True) if world_size() > 1 else None


def start_all_gather(mine: Tensor, group: Group | None = None) -> tuple[Tensor, Pending]:
    """Start to gather `mine` (n, ...) of each rank, with the same n, as (ranks * n, ...) in the order of ranks."""
    if world_size() == 1:
        return mine, None
    everything = mine.new_empty(world_size() * len(mine), *mine.shape[1:])
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13
    return everything, gather(everything, mine.contiguous(), group=group, async_op=True)


def all_gather(mine: Tensor) -> Tensor:
    """Return (ranks * n, ...): `mine` (n, ...) of each rank, with the same n, in the order of ranks."""
    everything, pending = start_all_gather(mine)
    if pending is not None:
        pending.wait()
    return everything
