"""Choose the device of a command: one decision for training, evaluation, embedding, scoring and preflight."""

import torch

from pipeline.config.schema import require


def choose_device(accelerator: str, processes: int = 1) -> str:
    """Return "cuda" or "cpu": the device for torch and the accelerator for Lightning.

    accelerator: auto (a CUDA GPU if there is one), cpu or gpu. processes: number on this node, one for each GPU.
    Raises ConfigError if GPUs are missing.
    """
    found = torch.cuda.device_count() if accelerator != "cpu" and torch.cuda.is_available() else 0
    require(
        accelerator != "gpu" or found > 0,
        "accelerator=gpu, but torch finds no GPU to use by CUDA; use accelerator=cpu, or a torch built for CUDA",
    )
    require(not found or processes <= found, f"devices={processes}, but torch finds {found} GPUs; use devices={found}")
    return "cuda" if found else "cpu"
