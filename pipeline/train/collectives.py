"""The few collective operations that training needs; with one process they do nothing."""

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_ranks_(values: Tensor) -> None:
    """In place; the same bits on every rank."""
    if world_size() > 1:
        dist.all_reduce(values)
        values.div_(world_size())


def all_gather(mine: Tensor) -> Tensor:
    """(n, ...) of each rank, equally long, to (ranks * n, ...) on all of them, in the order of ranks."""
    if world_size() == 1:
        return mine
    everything = mine.new_empty(world_size() * len(mine), *mine.shape[1:])
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor  # renamed in torch 2.13
    gather(everything, mine.contiguous())
    return everything


def all_gather_ragged(ids: Tensor) -> Tensor:
    """All ranks' ids (n,), where ranks differ in n: padded to the most with an id that each has anyway."""
    if world_size() == 1:
        return ids
    most = ids.new_tensor([len(ids)])
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    padded = ids[:1].repeat(int(most))
    padded[: len(ids)] = ids
    return all_gather(padded)
