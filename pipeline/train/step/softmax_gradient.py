"""The softmax's gradient as rows: gathered over lane groups, summed over ranks, never as large as the table."""

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
    """The rows of a step on their way: ids (R,), one buffer of weights (R, P) and biases (R,).

    reports (ranks, n): what each rank tells the others.
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
    """Collects the touched rows of a step and gives their mean over ranks to the table as a sparse gradient.

    Candidates are the same everywhere, so ranks exchange only their targets, and a checksum, during the forward pass.
    The union's rows travel in one dense buffer (NCCL has no sparse all-reduce) from the moment that backward has left
    the softmax, while backward continues through the layers. Bytes grow with the batch, never with the vocabulary.
    """

    def __init__(self, softmax: Softmax) -> None:
        self._softmax = softmax
        self._group: Group | None = None  # of its own: DDP's buckets are reduced at the same time
        self._dtype = softmax.weight.dtype
        self._collected: list[Rows] = []
        self._targets: list[tuple[Tensor, Pending]] = []  # of all ranks, after a checksum of each
        self._exchange: _Exchange | None = None

    def connect(self, group: Group | None, dtype: torch.dtype) -> None:
        """Exchange rows within `group` in `dtype` from now on."""
        self._group, self._dtype = group, dtype

    def collect(self, rows: Rows, targets: Tensor, check: Tensor) -> None:
        """Add a lane group's rows, and the targets that are among them; every rank has equally many targets.

        check (1,) int32: a checksum that has to be the same on all ranks.
        """
        self._collected.append(rows)
        if world_size() > 1:
            mine = torch.cat([check, targets.flatten().to(torch.int32)])
            self._targets.append(start_all_gather(mine, self._group))

    def send_during_backward(self, report: Tensor) -> None:
        """Start the exchange once the last lane group's backward has left the softmax.

        Call it once all lane groups are collected, before the last one's backward. report (n,): is gathered too.
        """
        if not self._collected:  # full softmax: `receive` reduces the dense gradient
            return
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
        """Return the ids (R,), rising, of the rows that any rank touched in the step.

        Raises RanksDiffer before buffers of different lengths would be summed, which would never end.
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

    def receive(self, report: Tensor) -> Tensor:
        """Set the table's gradients, means over ranks. Return the reports (ranks, n) of all ranks."""
        if self._exchange is None:
            return self._reduce_dense(report)
        rows, self._exchange = self._exchange, None
        rows.finish(self._softmax.weight.dtype)
        self._softmax.weight.grad = _sparse(rows.ids, rows.weight, self._softmax.weight)
        self._softmax.bias.grad = _sparse(rows.ids, rows.bias, self._softmax.bias)
        return rows.reports

    def _reduce_dense(self, report: Tensor) -> Tensor:
        """Under the full softmax every word is touched: the table's gradient is dense."""
        for parameter in self._softmax.parameters():
            assert parameter.grad is not None
            mean_over_ranks_(parameter.grad)
        return all_gather(report.unsqueeze(0))


def _sparse(ids: Tensor, values: Tensor, parameter: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(ids.unsqueeze(0), values, parameter.shape, is_coalesced=True, check_invariants=False)
