"""Where ELMo enters a task network: the one place in code that knows.

Source: Peters et al. 2018, sections 3.2 and 3.3. At the input, [x; ELMo] enters the network's lowest RNN; at the
output, [h; ELMo] replaces that RNN's output. Each place has its own mix of the same layers.
"""

import torch
from torch import Tensor, nn

from pipeline.config.schema import require
from pipeline.config.task_networks import ElmoConfig
from pipeline.model.elmo.scalar_mix import ScalarMix
from pipeline.tasks.networks.sequences import Sequences


class ElmoPlacement(nn.Module):
    """Add ELMo to a network's input and output, or leave them as they are.

    num_layers: L + 1, the token layer included. dim: D, the size of a layer. A single layer is scaled by a learned
    gamma, as "top" is: without gamma the paper's last-layer runs failed to train (appendix A.2).
    """

    def __init__(self, config: ElmoConfig, num_layers: int = 3, dim: int = 1024) -> None:
        super().__init__()
        require(
            config.placement in ("none", "input", "output", "both"),
            f"elmo.placement={config.placement!r} must be none, input, output or both",
        )
        self.config = config
        self._layer = _layer_number(config.layers, num_layers)
        self.mixes = nn.ModuleDict({place: self._new_mix(num_layers) for place in self._places()})
        self.dropout = nn.Dropout(config.dropout)
        self.input_dim, self.output_dim = (dim if place in self.mixes else 0 for place in ("input", "output"))

    def at_input(self, x_btd: Tensor, sequences: Sequences) -> Tensor:
        """Return [x; ELMo], or x where ELMo does not enter at the input."""
        return self._joined("input", x_btd, sequences)

    def at_output(self, h_btd: Tensor, sequences: Sequences) -> Tensor:
        """Return [h; ELMo], or h where ELMo does not enter at the output."""
        return self._joined("output", h_btd, sequences)

    def l2_penalty(self) -> Tensor:
        """Return lambda times the sum over the places of s squared: on the raw weights, not on gamma, not halved."""
        squares = [self._mix_at(place).squared_scalars() for place in self.mixes]
        return self.config.l2 * torch.stack(squares).sum() if squares else torch.zeros(())

    def learned(self) -> dict[str, tuple[list[float], float]]:
        """Return (weights of the layers, gamma) of each place."""
        mixes = {place: self._mix_at(place) for place in self.mixes}
        return {
            place: (mix.weights.tolist(), torch.as_tensor(mix.gamma).detach().item()) for place, mix in mixes.items()
        }

    def _places(self) -> tuple[str, ...]:
        place = self.config.placement
        return {"none": (), "both": ("input", "output")}.get(place, (place,))

    def _mix_at(self, place: str) -> ScalarMix:
        mix = self.mixes[place]
        assert isinstance(mix, ScalarMix)
        return mix

    def _new_mix(self, num_layers: int) -> ScalarMix:
        if self._layer is None:
            return ScalarMix(num_layers, "mix", self.config.layer_norm)
        return ScalarMix(1, "top", self.config.layer_norm)

    def _joined(self, place: str, x_btd: Tensor, sequences: Sequences) -> Tensor:
        if place not in self.mixes:
            return x_btd
        assert sequences.elmo is not None, "call batch.with_elmo() before the network"
        layers = sequences.elmo if self._layer is None else sequences.elmo[self._layer : self._layer + 1]
        mixed = self._mix_at(place)(layers[:, sequences.mask].to(x_btd.dtype))
        padded = mixed.new_zeros(*x_btd.shape[:2], mixed.shape[-1])
        padded[sequences.mask] = self.dropout(mixed)
        return torch.cat([x_btd, padded], -1)


def _layer_number(layers: str | int, num_layers: int) -> int | None:
    """Return the number of the only layer used, None for a learned mix of all."""
    if layers == "mix":
        return None
    number = num_layers - 1 if layers == "top" else int(layers) if str(layers).isdecimal() else -1
    require(
        0 <= number < num_layers,
        f"elmo.layers={layers!r} must be mix, top, or the number of a layer from 0 to {num_layers - 1}",
    )
    return number
