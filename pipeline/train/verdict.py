"""Whether a step's loss and gradients were finite: a GPU's optimizer hears it at once, the CPU a step later.

Read at once it would have the GPU wait, idle, until the CPU has launched the next step's first work.
"""

import torch
from torch import Tensor


class Verdict:
    """Of the gradient norm () and a report (n,) that begins with the loss. good () int32: 1 if both are finite."""

    def __init__(self, step: int, report: Tensor, norm: Tensor) -> None:
        self.step = step
        values = torch.cat([norm.unsqueeze(0), report]).float()
        self.good = values[:2].isfinite().all().to(torch.int32)
        self._values, self._copied = values, None
        if values.device.type == "cuda":
            self._values = torch.empty(len(values), pin_memory=True).copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> tuple[float, float, list[float]]:
        """Norm, loss, and the rest of the report; waits for the step's backward, not for what was launched since."""
        if self._copied is not None:
            self._copied.synchronize()
        norm, loss, *rest = self._values.tolist()
        return norm, loss, rest
