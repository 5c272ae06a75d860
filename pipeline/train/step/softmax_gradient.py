"""The softmax's gradient as rows: collected over lane groups and averaged over ranks, without the whole table."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.model.softmax import Rows, Softmax
from pipeline.train.step.collectives import (
    Group,
    Pending,
    all_gather,
    mean_over_ranks_,
    require_same,
    start_all_gather,
    start_all_reduce,
    world_size,
)


@dataclass
class _Exchange:
    """An exchange of a step's rows under way: ids (R,), one buffer of weights (R, P) and biases (R,).

    reports (ranks, n): the report of each rank.
    """

    ids: Tensor
    buffer: Tensor
    width: int
    reports: Tensor
    pending: list[Pending]

    @property
    def weight(self) -> Tensor:
        return self.buffer[: len(self.ids) * self.width].view(len(self.ids), self.width)

    @property
    def bias(self) -> Tensor:
        return self.buffer[len(self.ids) * self.width :]

    def finish(self, dtype: torch.dtype) -> None:
        """Wait for the other ranks, and turn sums over ranks into means in `dtype`."""
        for pending in self.pending:
            if pending is not None:
                pending.wait()
        self.buffer = self.buffer.to(dtype)
        if world_size() > 1:
            self.buffer.div_(world_size())


class SoftmaxGradient:
    """Collect the touched rows of a step, and set their mean over ranks as the table's sparse gradient.

    Candidates are the same on all ranks, so ranks exchange only their targets and a checksum in the forward pass. Once
    backward has left the softmax, ranks all-reduce the rows of the union in one dense buffer (NCCL has no sparse
    all-reduce), while backward continues through the layers. Traffic grows with the batch, not with the vocabulary.
    """

    def __init__(self, softmax: Softmax) -> None:
        self._softmax = softmax
        self._group: Group | None = None  # another group than DDP's: both all-reduce at the same time
        self._dtype = softmax.weight.dtype
        self._collected: list[Rows] = []
        self._targets: list[tuple[Tensor, Pending]] = []  # of all ranks; before the targets of a rank, its checksum
        self._exchange: _Exchange | None = None

    def connect(self, group: Group | None, dtype: torch.dtype) -> None:
        """Exchange rows within `group` in `dtype` from now on."""
        self._group, self._dtype = group, dtype

    def collect(self, rows: Rows, targets: Tensor, check: Tensor) -> None:
        """Add a lane group's rows and its targets; every rank has the same number of targets.

        check (1,) int32: a checksum that must be the same on all ranks.
        """
        self._collected.append(rows)
        if world_size() > 1:
            mine = torch.cat([check, targets.flatten().to(torch.int32)])
            self._targets.append(start_all_gather(mine, self._group))

    def send_during_backward(self, report: Tensor) -> None:
        """Start the exchange once the backward pass of the last lane group has left the softmax.

        Call it after all lane groups are collected, before backward of the last one. report (n,): to gather too.
        """
        if not self._collected:  # full softmax: `receive` reduces the dense gradient
            return
        waiting = [self._collected[-1].weight, self._collected[-1].bias]

        def count_down(leaf: Tensor) -> None:
            waiting.pop()
            if not waiting:
                self._start(report)

        for leaf in list(waiting):
            leaf.register_post_accumulate_grad_hook(count_down)

    def _start(self, report: Tensor) -> None:
        ids = self._union()
        width = self._softmax.weight.shape[1]
        reports, pending = start_all_gather(report.unsqueeze(0), self._group)
        rows = _Exchange(ids, self._softmax.weight.new_zeros(len(ids) * (width + 1)), width, reports, [pending])
        for part in self._collected:
            assert part.weight.grad is not None and part.bias.grad is not None
            place = torch.searchsorted(ids, part.ids)
            rows.weight.index_add_(0, place, part.weight.grad)
            rows.bias.index_add_(0, place, part.bias.grad)
        if world_size() > 1:
            rows.buffer = rows.buffer.to(self._dtype)
        rows.pending.append(start_all_reduce(rows.buffer, self._group))
        self._exchange = rows
        self._collected.clear()

    def _union(self) -> Tensor:
        """Return the sorted ids (R,) of the rows that any rank touched in the step.

        Raises RanksDiffer, because an all-reduce of buffers of different lengths would hang.
        """
        parts, checks = [rows.ids for rows in self._collected], []
        for gathered, pending in self._targets:
            pending.wait()
            by_rank = gathered.view(world_size(), -1)
            checks.append(by_rank[:, 0])
            parts.append(by_rank[:, 1:].flatten().long())
        self._targets.clear()
        ids = parts[0] if len(parts) == 1 else torch.unique(torch.cat(parts))
        for check in checks:  # only now: torch.unique has waited for a GPU anyway
            require_same(check.tolist(), "candidates")
        return ids

    def receive(self, report: Tensor) -> Tensor:
        """Set the table's gradients to their means over ranks. Return the reports (ranks, n) of all ranks."""
        if self._exchange is None:
            return self._reduce_dense(report)
        rows, self._exchange = self._exchange, None
        rows.finish(self._softmax.weight.dtype)
        self._softmax.weight.grad = _sparse(rows.ids, rows.weight, self._softmax.weight)
        self._softmax.bias.grad = _sparse(rows.ids, rows.bias, self._softmax.bias)
        return rows.reports

    def _reduce_dense(self, report: Tensor) -> Tensor:
        """Average the dense gradients of the full softmax over ranks, and gather the reports."""
        for parameter in self._softmax.parameters():
            assert parameter.grad is not None
            mean_over_ranks_(parameter.grad)
        return all_gather(report.unsqueeze(0))


def _sparse(ids: Tensor, values: Tensor, parameter: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(ids.unsqueeze(0), values, parameter.shape, is_coalesced=True, check_invariants=False)
