"""Read what torch.save wrote: tensors and plain values only, so that nothing in a file is executed."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config.schema import ConfigError, require

if TYPE_CHECKING:
    from torch import Tensor


def load_tensors(path: Path, mmap: bool = False) -> Any:
    """Return the content of a file, tensors on the CPU. Raises what torch's unpickler raises: see `reason_of`."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # of a file that torch.save did not write
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def load_named_tensors(path: Path, remedy: str) -> "dict[Any, Tensor]":
    """Return the state dict in a file that somebody else wrote. remedy: ends the sentence. Raises ConfigError."""
    from torch import Tensor

    try:
        content = load_tensors(path)
    except Exception as error:  # torch raises what its unpickler raises
        raise ConfigError(f"{path} cannot be read as weights ({reason_of(error)}); {remedy}") from None
    is_state = isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())
    require(bool(content) and is_state, f"{path} holds no named tensors; {remedy}")
    named: dict[Any, Tensor] = content
    return named


def reason_of(error: Exception) -> str:
    """Return the reason of an error of `load_tensors` as a part of a sentence.

    torch's own text advises to read the file in a way that executes it.
    """
    text = " ".join(str(error).split())
    return "it is damaged, or holds more than tensors and plain values" if "weights_only" in text else text[:200]
