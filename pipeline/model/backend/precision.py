"""Choose the precision in which a device trains a network faster; tell devices apart that round differently."""

import torch

from pipeline.config.schema import Precision
from pipeline.model.backend.matmul import HAS_BF16

# A step on a CPU takes 0.96 of its time in bfloat16 at 256 cells, 0.87 at 512, 0.70 at `small`: lab/recipe.md.
_LEAST_CELLS = 512


def suited_precision(cells: int, device: str) -> tuple[Precision, str]:
    """Return the precision for LSTM layers of so many cells on a device, cuda or cpu, and the reason."""
    if device == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", "this GPU multiplies bfloat16"
        return "32-true", "this GPU does not multiply bfloat16"
    if not HAS_BF16:
        return "32-true", "this processor has no instructions for bfloat16"
    if cells < _LEAST_CELLS:
        return "32-true", f"bfloat16 is hardly faster below {_LEAST_CELLS} cells"
    return "bf16-mixed", "this processor multiplies bfloat16"


def rounding_of(device: torch.device) -> str:
    """Return what decides the rounding of sums here. Every rank updates its own replica of the weights: where sums
    round differently, in the norm of the gradients and in Muon's products, the replicas would drift apart.
    """
    if device.type == "cuda":
        return str(torch.cuda.get_device_capability(device))
    return f"{torch.backends.cpu.get_cpu_capability()} {HAS_BF16}"
