"""What computes layers of sentences for tasks and probes, behind one interface: a biLM or a translation encoder (CoVe).

This is the one place that tells by a folder which of them it holds.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from data_prep.dataset.locations import local_path
from pipeline.apply.embed.vector_parts import digest
from pipeline.apply.load import load_trained
from pipeline.model.elmo.pretrained import Elmo
from pipeline.tasks.cove.model import Cove, is_cove

Text = tuple[str, ...]


class LayerEncoder(Protocol):
    """num_layers: layer 0 included, which knows no context; token_layer says what it holds. width: of each layer."""

    token_layer: str

    @property
    def num_layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def is_trained(self) -> bool: ...

    def __call__(self, texts: Sequence[Text]) -> Tensor:
        """Return (layers, B, T, width), zeros after a text's end; with gradients if the encoder is trained."""

    def embed(self, texts: Sequence[Text]) -> list[Tensor]:
        """Return (layers, words, width) of each text, without padding and without gradient."""

    def cache_vocabulary(self, words: Sequence[str]) -> None:
        """Prepare for texts that use these words often."""

    def digest(self) -> str:
        """Return a SHA-256 of all that the layers depend on."""

    def save(self, folder: Path) -> None:
        """Write the encoder into `folder`, replacing one that is there."""

    def to(self, device: torch.device | str, /) -> Any: ...


class BilmEncoder(nn.Module):
    """The layers of a biLM, each sentence from the zero state."""

    token_layer = "tokens"

    def __init__(self, elmo: Elmo) -> None:
        super().__init__()
        self.elmo = elmo

    @property
    def num_layers(self) -> int:
        return self.elmo.bilm.config.num_layers + 1

    @property
    def width(self) -> int:
        return self.elmo.output_dim

    @property
    def is_trained(self) -> bool:
        return bool(self.elmo.options["trainable"])

    def forward(self, texts: Sequence[Text]) -> Tensor:
        layers = self.elmo(texts, return_layers=True).layers
        assert layers is not None
        return layers

    def embed(self, texts: Sequence[Text]) -> list[Tensor]:
        return self.elmo.embed(texts)

    def cache_vocabulary(self, words: Sequence[str]) -> None:
        self.elmo.cache_vocabulary(words)

    def digest(self) -> str:
        return digest(self.elmo.bilm)

    def save(self, folder: Path) -> None:
        self.elmo.save_pretrained(folder, overwrite=True)


def open_encoder(location: str | Path, device: torch.device | str = "cpu", trained: bool = False) -> LayerEncoder:
    """Open a model folder of `elmo cove`, or a biLM wherever `load_trained` finds one. trained: with a task.

    Raises ConfigError.
    """
    if is_cove(local_path(location)):
        cove = Cove.from_pretrained(location, device)
        cove.encoder.requires_grad_(trained)
        return cove
    bilm = load_trained(str(location), device, softmax=False).bilm
    return BilmEncoder(Elmo(bilm, num_outputs=0, trainable=trained))


def open_saved(folder: Path) -> LayerEncoder:
    """Open what `LayerEncoder.save` wrote. Raises ConfigError."""
    return Cove.from_pretrained(folder) if is_cove(folder) else BilmEncoder(Elmo.from_pretrained(folder, num_outputs=0))
