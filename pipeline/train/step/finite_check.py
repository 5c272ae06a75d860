"""Drop and count steps whose loss or gradients are not finite; too many in a row end the run.

On a GPU the optimizer reads on the device whether a step is good, and the CPU reads the result one step later: if the
CPU waited for it, the GPU would be idle until the CPU has launched the next step's first kernels.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.train.cluster.stop_requests import Request
from pipeline.train.outcome import Failed
from pipeline.train.step.state import TrainingState


class Diverged(Failed):
    """Too many steps in a row had a loss or gradient that was not finite."""


@dataclass(frozen=True)
class StepResult:
    """The result of a step. loss: mean over ranks, lanes and directions, in nats. request: the highest of all ranks."""

    step: int
    loss: float
    gradient_norm: float
    request: Request

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.gradient_norm)


class _Pending:
    """The gradient norm () and reports (ranks, 2) of a step, which the device may still be computing.

    good () int32: 1 if the norm and all losses are finite.
    """

    def __init__(self, step: int, reports: Tensor, norm: Tensor) -> None:
        self.step = step
        values = torch.cat([norm.unsqueeze(0), reports.T.flatten()]).float()  # norm, losses, requests
        self.good = values[: 1 + len(reports)].isfinite().all().to(torch.int32)
        self._values, self._copied = values, None
        if values.device.type == "cuda":
            self._values = torch.empty(len(values), pin_memory=True).copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> StepResult:
        """Wait for the step's backward pass, but not for later kernels."""
        if self._copied is not None:
            self._copied.synchronize()
        norm, *values = self._values.tolist()
        ranks = len(values) // 2
        return StepResult(self.step, sum(values[:ranks]) / ranks, norm, Request(int(max(values[ranks:]))))


class FiniteCheck:
    """Count bad steps in `state`. Every rank makes the same calls and gets the same results."""

    def __init__(self, state: TrainingState, max_bad_steps: int) -> None:
        self._state, self._max_bad_steps = state, max_bad_steps
        self._pending: _Pending | None = None
        self._results: list[StepResult] = []

    def check(self, step: int, reports: Tensor, norm: Tensor, wait: bool) -> Tensor | bool:
        """Return whether a step is finite; without `wait`, as () int32 on its device (1: finite).

        reports (ranks, 2): loss and request of each rank. Raises Diverged.
        """
        self.read()  # the step before, if its result was not read yet
        self._pending = _Pending(step, reports, norm)
        return self.read() if wait else self._pending.good

    def read(self) -> bool:
        """Wait for the last step's result, count it, and return whether it is finite. Raises Diverged."""
        if self._pending is None:
            return True
        result, self._pending = self._pending.read(), None
        self._results.append(result)
        if result.is_finite:
            self._state.bad_steps_in_a_row = 0
            return True
        self._state.bad_steps += 1
        self._state.bad_steps_in_a_row += 1
        if self._state.bad_steps_in_a_row >= self._max_bad_steps:
            raise Diverged(
                f"loss {result.loss} and gradient norm {result.gradient_norm} at step {result.step:,}: "
                f"{self._state.bad_steps_in_a_row} steps in a row were not finite"
            )
        return False

    @property
    def request(self) -> Request:
        """Return the highest request among the results that were not taken yet."""
        return max((result.request for result in self._results), default=Request.NONE)

    def take_results(self) -> list[StepResult]:
        """Return the results that were read since the last call, oldest first."""
        results, self._results = self._results, []
        return results
