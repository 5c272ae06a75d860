"""Read what torch.save wrote: tensors and plain values only, so that nothing in a file is executed."""

import warnings
from pathlib import Path
from typing import Any


def load_tensors(path: Path, mmap: bool = False) -> Any:
    """Return the content of a file, tensors on the CPU. Raises what torch's unpickler raises: see `reason_of`."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # of a file that torch.save did not write
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def reason_of(error: Exception) -> str:
    """Return the reason of an error of `load_tensors` as a part of a sentence.

    torch's own text advises to read the file in a way that executes it.
    """
    text = " ".join(str(error).split())
    return "it is damaged, or holds more than tensors and plain values" if "weights_only" in text else text[:200]
