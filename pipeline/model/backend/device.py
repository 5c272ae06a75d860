"""Choose the device of a command, and how work on a GPU is done: by Triton kernels and CUDA graphs, or by plain torch.

The environment variable ELMO_GPU sets the latter for a process: graphs (default), kernels (without graphs) or plain.
"""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

from pipeline.config.schema import ConfigError, require

MODES = ("graphs", "kernels", "plain")

_mode = ""  # set by `using`


def choose_device(accelerator: str, processes: int = 1) -> str:
    """Return "cuda", "cpu" or "mps", for torch and for Lightning: the one decision of all commands.

    accelerator: auto (a CUDA GPU if there is one), cpu, gpu or mps. processes: number on this node, one for each GPU.
    Raises ConfigError if GPUs are missing, also in a container that was built for them (ELMO_IMAGE=cuda), which would
    else compute on the CPU for days.
    """
    if accelerator == "mps":
        is_there = torch.backends.mps.is_available()
        require(is_there, "accelerator=mps, but torch finds no Apple GPU to use by MPS; use accelerator=cpu")
        return "mps"
    found = torch.cuda.device_count() if accelerator != "cpu" and torch.cuda.is_available() else 0
    require(
        accelerator == "cpu" or found > 0 or os.environ.get("ELMO_IMAGE") != "cuda",
        "this container was built for GPUs, but torch finds none; start it with the GPU runtime (docker run --gpus "
        "all, apptainer exec --nv), or use accelerator=cpu",
    )
    require(
        accelerator != "gpu" or found > 0,
        "accelerator=gpu, but torch finds no GPU to use by CUDA; use accelerator=cpu, or a torch built for CUDA",
    )
    require(not found or processes <= found, f"devices={processes}, but torch finds {found} GPUs; use devices={found}")
    return "cuda" if found else "cpu"


@contextmanager
def using(mode: str) -> Iterator[None]:
    """Set the mode, one of MODES, inside a `with` block; "kernels" also on a CPU, where Triton interprets them."""
    global _mode
    assert mode in MODES
    before, _mode = _mode, mode
    try:
        yield
    finally:
        _mode = before


def mode_of(device: torch.device) -> str:
    """Return the mode, one of MODES, in which this process works on a device."""
    if device.type != "cuda" and _mode != "kernels":
        return "plain"
    return (_mode or _from_environment()) if _has_triton() else "plain"


def uses_kernels(values: Tensor) -> bool:
    """Return whether pointwise work on these values is done by triton_kernels.py; only if they are float32."""
    if values.dtype != torch.float32 or not (values.is_cuda or _mode == "kernels"):
        return False
    return (_mode or _from_environment()) != "plain" and _has_triton()


def records_graphs(values: Tensor) -> bool:
    """Return whether launches that repeat on the same buffers are recorded and replayed as CUDA graphs."""
    return values.is_cuda and (_mode or _from_environment()) == "graphs"


def upload(values: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to the device. The CPU does not wait for a CUDA GPU, because the memory is pinned."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=device.type != "mps")


@cache
def _from_environment() -> str:
    mode = os.environ.get("ELMO_GPU") or MODES[0]
    if mode not in MODES:
        raise ConfigError(f"ELMO_GPU={mode!r} must be one of {', '.join(MODES)}; unset, it is {MODES[0]}")
    return mode


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None  # torch's CUDA builds come with Triton
