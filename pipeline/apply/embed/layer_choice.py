"""The layers that a command writes: all, one, their average or a mix."""

import math
from dataclasses import dataclass

from torch import Tensor

from pipeline.config.schema import require


@dataclass(frozen=True)
class LayerChoice:
    """name: all, top, average, mix, or a layer's number. weights, gamma: factors of the layers in a mix."""

    name: str
    num_layers: int  # L + 1
    weights: tuple[float, ...] = ()
    gamma: float = 1.0

    def __post_init__(self) -> None:
        names = ["all", "top", "average", "mix", *map(str, range(self.num_layers))]
        require(self.name in names, f"layer {self.name} must be one of {', '.join(names)} for this model")
        is_mix = self.name == "mix"
        require(is_mix or not self.weights, f"weights= goes with layers=mix, not with layers={self.name}")
        example = f"{self.num_layers} numbers, one a layer; write weights=[0.2{',0.3' * (self.num_layers - 2)},0.5]"
        require(not is_mix or bool(self.weights), f"layers=mix needs weights=, {example}")
        require(
            len(self.weights) == (self.num_layers if is_mix else 0),
            f"weights={list(self.weights)} must be {example}",
        )
        finite = all(map(math.isfinite, self.weights))
        require(finite, f"weights={list(self.weights)} must be finite numbers, one a layer")
        require(math.isfinite(self.gamma), f"gamma={self.gamma} must be finite; 1 leaves the mix as it is")

    @property
    def count(self) -> int:
        """Return the number of layers written."""
        return self.num_layers if self.name == "all" else 1

    def of(self, layers: list[Tensor]) -> list[Tensor]:
        """Return the chosen layers of L + 1 tensors of the same shape."""
        if self.name == "all":
            return layers
        if self.name in ("average", "mix"):
            share = (1 / self.num_layers,) * self.num_layers
            weights = [self.gamma * w for w in self.weights] if self.name == "mix" else share
            total = layers[0] * weights[0]
            for weight, layer in zip(weights[1:], layers[1:], strict=True):
                total = total.add(layer, alpha=weight)
            return [total]
        return [layers[-1 if self.name == "top" else int(self.name)]]
