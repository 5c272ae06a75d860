"""The softmax's gradient as rows: gathered over lane groups, summed over ranks, never as large as the table."""

import torch
from torch import Tensor

from pipeline.model.softmax import Rows, Softmax
from pipeline.train.collectives import all_gather_ragged, mean_over_ranks_


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
        ids = torch.unique(torch.cat([all_gather_ragged(rows.ids) for rows in self._collected]))
        buffer = self._sum_groups(ids, extra)
        mean_over_ranks_(buffer)
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
            mean_over_ranks_(parameter.grad)
        mean_over_ranks_(extra)
        return extra


def _sparse(ids: Tensor, values: Tensor, parameter: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(
        ids.unsqueeze(0), values, parameter.shape, is_coalesced=True, check_invariants=False
    )
