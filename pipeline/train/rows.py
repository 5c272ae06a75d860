"""The softmax's gradient as rows: gathered over lane groups, summed over ranks, never as large as the table."""

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.model.softmax import Rows, Softmax


class RowGradients:
    """Collects the touched rows of a step and gives their mean over ranks to the table as a sparse gradient.

    Ranks first tell each other which rows they touched (their targets; candidates are the same everywhere), then
    all-reduce the union's rows in one dense buffer: NCCL has no sparse all-reduce. Bytes grow with the batch only.
    """

    def __init__(self, softmax: Softmax) -> None:
        self._softmax = softmax
        self._collected: list[Rows] = []

    def collect(self, rows: Rows) -> None:
        self._collected.append(rows)

    def clear(self) -> None:
        self._collected.clear()

    def exchange(self, extra: Tensor) -> Tensor:
        """Set the table's gradients from what was collected; returns the mean over ranks of `extra` (n,)."""
        if not self._collected:
            return self._exchange_dense(extra)
        ids = torch.unique(torch.cat([_union_over_ranks(rows.ids) for rows in self._collected]))
        buffer = self._sum_groups(ids, extra)
        _mean_over_ranks_(buffer)
        width = self._softmax.weight.shape[1]
        weight = buffer[: len(ids) * width].view(len(ids), width)
        bias = buffer[len(ids) * width : len(ids) * (width + 1)]
        self._softmax.weight.grad = _sparse(ids, weight, self._softmax.weight)
        self._softmax.bias.grad = _sparse(ids, bias, self._softmax.bias)
        self.clear()
        return buffer[len(ids) * (width + 1) :]

    def _sum_groups(self, ids: Tensor, extra: Tensor) -> Tensor:
        width = self._softmax.weight.shape[1]
        buffer = extra.new_zeros(len(ids) * (width + 1) + len(extra))
        weight = buffer[: len(ids) * width].view(len(ids), width)
        bias = buffer[len(ids) * width : len(ids) * (width + 1)]
        for rows in self._collected:
            assert rows.weight.grad is not None and rows.bias.grad is not None
            place = torch.searchsorted(ids, rows.ids)
            weight.index_add_(0, place, rows.weight.grad)
            bias.index_add_(0, place, rows.bias.grad)
        buffer[len(ids) * (width + 1) :] = extra
        return buffer

    def _exchange_dense(self, extra: Tensor) -> Tensor:
        """Under the full softmax the table's gradient is dense: every word is touched."""
        for parameter in self._softmax.parameters():
            assert parameter.grad is not None
            _mean_over_ranks_(parameter.grad)
        _mean_over_ranks_(extra)
        return extra


def _sparse(ids: Tensor, values: Tensor, parameter: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(
        ids.unsqueeze(0), values, parameter.shape, is_coalesced=True, check_invariants=False
    )


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _mean_over_ranks_(values: Tensor) -> None:
    if _world_size() > 1:
        dist.all_reduce(values)
        values.div_(_world_size())


def _union_over_ranks(ids: Tensor) -> Tensor:
    """All ranks' ids. Ranks differ in how many they have: padded to the most with an id each has anyway."""
    if _world_size() == 1:
        return ids
    most = torch.tensor([len(ids)], device=ids.device)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    padded = torch.cat([ids, ids[:1].expand(int(most) - len(ids))])
    gathered = padded.new_empty(_world_size() * len(padded))
    dist.all_gather_into_tensor(gathered, padded)
    return gathered
