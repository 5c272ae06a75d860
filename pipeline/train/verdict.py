"""Whether a step's loss and gradients were finite: a GPU's optimizer hears it at once, the CPU a step later.

Read at once it would have the GPU wait, idle, until the CPU has launched the next step's first work.
"""

import torch
from torch import Tensor


class Verdict:
    """Of a step's loss and gradient norm, scalars. good () int32, on their device: 1 if both are finite, else 0."""

    def __init__(self, step: int, loss: Tensor, norm: Tensor) -> None:
        self.step = step
        values = torch.stack([loss.float(), norm.float()])
        self.good = values.isfinite().all().to(torch.int32)
        self._values, self._copied = values, None
        if values.device.type == "cuda":
            self._values = torch.empty(2, pin_memory=True).copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> tuple[float, float]:
        """Loss and norm; waits for the step's backward, not for what was launched since."""
        if self._copied is not None:
            self._copied.synchronize()
        loss, norm = self._values.tolist()
        return loss, norm
