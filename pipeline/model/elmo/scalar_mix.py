"""The learned mix of layers, gamma * sum over j of softmax(s)_j h_j; each place of ELMo in a task has its own mix.

Source: Peters et al. 2018, equation 1; bilm-tf elmo.py weight_layers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.config.schema import require

_EPS = 1e-12  # as in bilm-tf; AllenNLP's 1e-13 gives the same float32 values


class ScalarMix(nn.Module):
    """Mix L + 1 layers.

    weights: "mix" (softmax of s, which starts at 0), "top" (the last layer), or a fixed factor for each layer, without
    softmax. Learned parameters: s and gamma ("mix"), gamma ("top"), none (fixed factors).
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
        """(L + 1,): the factor of each layer, without gamma."""
        return torch.softmax(self.scalars, 0) if self.is_learned else self.fixed

    def forward(self, layers: Tensor) -> Tensor:
        """Mix layers (L + 1, N, D) of words, without padding, into (N, D).

        With layer_norm each layer is normalised by the mean and the deviation of all its N x D values, as in bilm-tf
        and AllenNLP.
        """
        if self.layer_norm and layers.shape[1]:
            mean = layers.mean((1, 2), keepdim=True)
            variance = (layers - mean).square().mean((1, 2), keepdim=True)
            layers = (layers - mean) * torch.rsqrt(variance + _EPS)
        with torch.autocast(layers.device.type, enabled=False):
            return self.gamma * torch.tensordot(self.weights.to(layers.dtype), layers, 1)

    def squared_scalars(self) -> Tensor:
        """Return the sum of s squared, 0 if s is not learned. Times lambda it is bilm-tf's regularisation (no 1/2)."""
        return self.scalars.square().sum() if self.is_learned else torch.zeros(())
