"""The few collective operations that training needs; with one process they do nothing."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch.distributed as dist
from torch import Tensor

from pipeline.train.outcome import Failed

Group: TypeAlias = Any
Pending: TypeAlias = Any
"""An operation under way, to be waited for; None where there is nothing to wait for."""


class RanksDiffer(Failed):
    """Ranks hold different values of what must be the same on all of them."""


def require_same(values: Sequence[int], what: str) -> None:
    """Raises RanksDiffer that names the ranks whose value is not that of most. values: one of each rank."""
    if len(set(values)) == 1:
        return
    usual = max(values, key=values.count)
    ranks = ", ".join(str(rank) for rank, value in enumerate(values) if value != usual)
    raise RanksDiffer(
        f"of {len(values)} ranks, these have other {what} than the rest: {ranks}; "
        "their machines have other code, other data or a faulty processor: exclude them, and resume"
    )


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def leave() -> None:
    """Its threads end; else one may free a tensor when Python is gone already, and abort. Every rank calls it."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def new_group() -> Group | None:
    """All ranks once more, as a group whose operations do not queue behind those of others. Every rank calls it."""
    return dist.new_group() if world_size() > 1 else None


def broadcast_(values: Tensor) -> None:
    """In place: every rank has rank 0's values."""
    if world_size() > 1:
        dist.broadcast(values, 0)


def mean_over_ranks_(values: Tensor) -> None:
    """In place; the same bits on every rank."""
    if world_size() > 1:
        dist.all_reduce(values)
        values.div_(world_size())


def start_all_reduce(values: Tensor, group: Group | None) -> Pending:
    """values become their sum over ranks, in place, once the operation returned has been waited for."""
    return dist.all_reduce(values, group=group, async_op=True) if world_size() > 1 else None


def start_all_gather(mine: Tensor, group: Group | None = None) -> tuple[Tensor, Pending]:
    """(n, ...) of each rank, equally long, to (ranks * n, ...) on all of them, in the order of ranks."""
    if world_size() == 1:
        return mine, None
    everything = mine.new_empty(world_size() * len(mine), *mine.shape[1:])
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13
    return everything, gather(everything, mine.contiguous(), group=group, async_op=True)


def all_gather(mine: Tensor) -> Tensor:
    """As `start_all_gather`, waited for."""
    everything, pending = start_all_gather(mine)
    if pending is not None:
        pending.wait()
    return everything
