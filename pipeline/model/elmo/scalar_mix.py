"""The learned mix of layers: gamma * sum over j of softmax(s)_j h_j, once for each place ELMo is used in a task.

Source: Peters et al. 2018, equation 1; bilm-tf elmo.py weight_layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.config.schema import require

_EPS = 1e-12  # bilm-tf's; AllenNLP's 1e-13 cannot be told from it in float32


class ScalarMix(nn.Module):
    """Mixes L + 1 layers. What is learned: s and gamma ("mix"), gamma ("top"), nothing (weights given).

    weights: "mix" (softmax of s, which starts at 0), "top" (the last layer), or a number for each layer that
    multiplies it as it stands, without softmax.
    """

    scalars: nn.Parameter
    fixed: Tensor

    def __init__(self, num_layers: int, weights: str | Sequence[float] = "mix", layer_norm: bool = False) -> None:
        super().__init__()
        self.is_learned, self.layer_norm = weights == "mix", layer_norm
        if isinstance(weights, str):
            require(weights in ("mix", "top"), f"layers={weights!r} must be mix, top or {num_layers} numbers")
            self.gamma: nn.Parameter | float = nn.Parameter(torch.ones(()))
        else:
            require(len(weights) == num_layers, f"layers={list(weights)} must be {num_layers} numbers: one a layer")
            self.gamma = 1.0
        if self.is_learned:
            self.scalars = nn.Parameter(torch.zeros(num_layers))
        else:
            one_hot = [0.0] * (num_layers - 1) + [1.0]
            self.register_buffer("fixed", torch.tensor(one_hot if weights == "top" else [float(w) for w in weights]))

    @property
    def weights(self) -> Tensor:
        """(L + 1,): what multiplies each layer, gamma apart."""
        return torch.softmax(self.scalars, 0) if self.is_learned else self.fixed

    def forward(self, layers: Tensor) -> Tensor:
        """layers (L + 1, N, D) of words, no padding among them -> (N, D).

        layer_norm: each layer less its one mean, over its one deviation, of all N x D values, as the peers do.
        """
        if self.layer_norm and layers.shape[1]:
            mean = layers.mean((1, 2), keepdim=True)
            variance = (layers - mean).square().mean((1, 2), keepdim=True)
            layers = (layers - mean) * torch.rsqrt(variance + _EPS)
        with torch.autocast(layers.device.type, enabled=False):
            return self.gamma * torch.tensordot(self.weights.to(layers.dtype), layers, 1)

    def squared_scalars(self) -> Tensor:
        """Sum of s squared, 0 where s is not learned: times lambda it is the regularisation (no half, bilm-tf)."""
        return self.scalars.square().sum() if self.is_learned else torch.zeros(())
