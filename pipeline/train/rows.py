"""The softmax's gradient as rows: gathered over lane groups, summed over ranks, never as large as the table."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.model.softmax import Rows, Softmax
from pipeline.train.collectives import (
    Group,
    Pending,
    mean_over_ranks_,
    require_same,
    start_all_gather,
    start_all_reduce,
    world_size,
)


@dataclass
class _Sum:
    """The rows of a step on their way: ids (R,), one buffer of weights (R, P) and biases (R,), and a report (n,)."""

    ids: Tensor
    buffer: Tensor
    width: int
    report: Tensor
    pending: list[Pending]

    @property
    def weight(self) -> Tensor:
        return self.buffer[: len(self.ids) * self.width].view(len(self.ids), self.width)

    @property
    def bias(self) -> Tensor:
        return self.buffer[len(self.ids) * self.width :]

    def finish(self, dtype: torch.dtype) -> None:
        """Sums over ranks have become means in `dtype`."""
        for pending in self.pending:
            if pending is not None:
                pending.wait()
        self.buffer = self.buffer.to(dtype)
        if world_size() > 1:
            self.buffer.div_(world_size())
            self.report = self.report / world_size()


class RowGradients:
    """Collects the touched rows of a step and gives their mean over ranks to the table as a sparse gradient.

    Candidates are the same everywhere, so ranks exchange only their targets, and a checksum, during the forward pass.
    The union's rows travel in one dense buffer (NCCL has no sparse all-reduce) from the moment that backward has left
    the softmax, while it goes on through the layers. Bytes grow with the batch, never with the vocabulary.
    """

    def __init__(self, softmax: Softmax) -> None:
        self._softmax = softmax
        self._group: Group | None = None  # of their own: DDP's buckets are reduced at the same time
        self._dtype = softmax.weight.dtype
        self._collected: list[Rows] = []
        self._targets: list[tuple[Tensor, Pending]] = []  # of all ranks, after a checksum of each
        self._sum: _Sum | None = None

    def connect(self, group: Group | None, dtype: torch.dtype) -> None:
        """Ranks exchange rows within `group` in `dtype`."""
        self._group, self._dtype = group, dtype

    def collect(self, rows: Rows, targets: Tensor, check: Tensor) -> None:
        """A lane group's rows, and the targets that are among them; every rank has equally many targets.

        check (1,) int32: has to be the same on all ranks.
        """
        self._collected.append(rows)
        if world_size() > 1:
            mine = torch.cat([check, targets.flatten().to(torch.int32)])
            self._targets.append(start_all_gather(mine, self._group))

    def start_after_backward(self, report: Tensor) -> None:
        """Called once all lane groups are collected, before the last one's backward. report (n,): travels along."""
        waiting = [self._collected[-1].weight, self._collected[-1].bias]

        def one_more(leaf: Tensor) -> None:
            waiting.pop()
            if not waiting:
                self._start(report)

        for leaf in list(waiting):
            leaf.register_post_accumulate_grad_hook(one_more)

    def _start(self, report: Tensor) -> None:
        ids = self._union()
        width = self._softmax.weight.shape[1]
        total = _Sum(ids, self._softmax.weight.new_zeros(len(ids) * (width + 1)), width, report.clone(), [])
        for rows in self._collected:
            assert rows.weight.grad is not None and rows.bias.grad is not None
            place = torch.searchsorted(ids, rows.ids)
            total.weight.index_add_(0, place, rows.weight.grad)
            total.bias.index_add_(0, place, rows.bias.grad)
        if world_size() > 1:
            total.buffer = total.buffer.to(self._dtype)
        total.pending = [start_all_reduce(values, self._group) for values in (total.buffer, total.report)]
        self._sum = total
        self._collected.clear()

    def _union(self) -> Tensor:
        """Ids (R,), rising, of the rows that any rank touched in the step.

        Raises RanksDiffer, before rows of different numbers would be summed up: that would never end.
        """
        parts, checks = [rows.ids for rows in self._collected], []
        for gathered, pending in self._targets:
            pending.wait()
            of_ranks = gathered.view(world_size(), -1)
            checks.append(of_ranks[:, 0])
            parts.append(of_ranks[:, 1:].flatten().long())
        self._targets.clear()
        ids = parts[0] if len(parts) == 1 else torch.unique(torch.cat(parts))
        for check in checks:  # now, as a GPU was waited for to learn how many ids there are
            require_same(check.tolist(), "candidates")
        return ids

    def finish(self, report: Tensor) -> Tensor:
        """Set the table's gradients, means over ranks; returns the report's mean over ranks too."""
        if self._sum is None:
            return self._finish_dense(report)
        total, self._sum = self._sum, None
        total.finish(self._softmax.weight.dtype)
        self._softmax.weight.grad = _sparse(total.ids, total.weight, self._softmax.weight)
        self._softmax.bias.grad = _sparse(total.ids, total.bias, self._softmax.bias)
        return total.report

    def _finish_dense(self, report: Tensor) -> Tensor:
        """Under the full softmax every word is touched: the table's gradient is dense."""
        for parameter in self._softmax.parameters():
            assert parameter.grad is not None
            mean_over_ranks_(parameter.grad)
        mean_over_ranks_(report)
        return report


def _sparse(ids: Tensor, values: Tensor, parameter: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(ids.unsqueeze(0), values, parameter.shape, is_coalesced=True, check_invariants=False)
