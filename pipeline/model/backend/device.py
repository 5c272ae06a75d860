"""Which way work on a GPU goes: Triton kernels and CUDA graphs, or plain torch as on a CPU.

The environment variable ELMO_GPU says it for a whole process: graphs (the default), kernels (no graphs) or plain.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from pipeline.config.schema import ConfigError

MODES = ("graphs", "kernels", "plain")

_mode = ""  # of `using`


@contextmanager
def using(mode: str) -> Iterator[None]:
    """Inside, work goes the way of this one of MODES; "kernels" on a CPU too, where Triton interprets them."""
    global _mode
    assert mode in MODES
    before, _mode = _mode, mode
    try:
        yield
    finally:
        _mode = before


def uses_kernels(values: Tensor) -> bool:
    """Whether pointwise work beside such float32 values goes to triton_kernels.py."""
    if values.dtype != torch.float32 or not (values.is_cuda or _mode == "kernels"):
        return False
    return (_mode or _from_environment()) != "plain" and _has_triton()


def records_graphs(values: Tensor) -> bool:
    """Whether launches that come again on the same buffers are recorded and replayed."""
    return values.is_cuda and (_mode or _from_environment()) == "graphs"


def upload(values: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on the device. A GPU's copy comes in its turn: nobody waits, as one would for memory not pinned."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


@cache
def _from_environment() -> str:
    mode = os.environ.get("ELMO_GPU") or MODES[0]
    if mode not in MODES:
        raise ConfigError(f"ELMO_GPU={mode!r} must be one of {', '.join(MODES)}; unset, it is {MODES[0]}")
    return mode


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None  # it comes with torch's CUDA builds
