"""A trained biLM out of a checkpoint, with its vocabulary and settings."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.config import PretrainConfig
from pipeline.model.bilm import BiLM
from pipeline.read_config import from_dict
from pipeline.train.checkpoint import load_checkpoint, resolve_checkpoint


@dataclass
class Trained:
    """words (V): the target vocabulary, by falling count; counts (V,) of it in training, <UNK> holding all the rest."""

    path: Path
    step: int
    config: PretrainConfig
    bilm: BiLM
    words: list[str]
    counts: np.ndarray
    dataset_fingerprint: str


def load_trained(location: str, device: torch.device | str = "cpu") -> Trained:
    """From a checkpoint file, or a run's folder (its best, else its newest). Raises ConfigError."""
    path = resolve_checkpoint(location)
    content = load_checkpoint(path)
    config = from_dict(PretrainConfig, content["elmo"]["config"])
    words = bytes(content["elmo"]["vocabulary"]["words"].numpy()).decode().split("\n")
    with torch.device("meta"):
        bilm = BiLM(config.model, len(words))
    bilm.load_state_dict({k: v.to(device) for k, v in content["state_dict"].items()}, assign=True)
    return Trained(
        path, content["global_step"], config, bilm.eval().requires_grad_(False), words,
        content["elmo"]["vocabulary"]["counts"].numpy().copy(), content["elmo"]["identity"]["dataset"],
    )  # fmt: skip
