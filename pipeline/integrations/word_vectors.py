"""Vectors of words in context as NumPy arrays, for the pipelines of other libraries."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.apply.embed.layer_choice import LayerChoice
from pipeline.apply.load import load_trained
from pipeline.config.schema import ConfigError, require
from pipeline.model.elmo.elmo import ElmoModule


def _device(name: str) -> torch.device:
    """Return the device. Raises ConfigError if it is none, or not there."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch without CUDA
        raise ConfigError(
            f"device={name} cannot be used ({str(error).splitlines()[0]}); use cpu, or cuda where torch finds a GPU"
        ) from None
    return device


class WordVectors:
    """A trained biLM and the layers of it that a pipeline uses."""

    def __init__(self, model: str | Path, layers: str | int, device: str) -> None:
        """model: whatever `load_trained` takes. layers: average, top, a number, or all: side by side.

        device: cpu, cuda (a number may follow, as in cuda:1) or mps. Raises ConfigError.
        """
        require(bool(model), "model= is missing: give a model folder, a run's folder, a checkpoint, or ORG/NAME")
        require(layers != "mix", "layers=mix is for `elmo embed`; use average, top, all, or a layer's number")
        self._elmo = ElmoModule(load_trained(str(model), _device(device), softmax=False).bilm, num_outputs=0)
        self._choice = LayerChoice(str(layers), self._elmo.bilm.config.num_layers + 1)

    @property
    def width(self) -> int:
        """Return the number of values of a word."""
        return self._choice.count * self._elmo.output_dim

    def of(self, sentences: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Return (words, width) float32 for each sentence."""
        chosen = (torch.cat(self._choice.of(list(layers)), -1) for layers in self._elmo.embed(sentences))
        return [vectors.cpu().numpy() for vectors in chosen]

    def save(self, folder: str) -> None:
        """Write the biLM as a model folder, replacing one that is there."""
        from pipeline.model.formats.pretrained import save_pretrained

        save_pretrained(folder, self._elmo.bilm, overwrite=True)
