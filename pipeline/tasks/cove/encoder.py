"""The encoder of the translation model: bidirectional LSTM layers over word vectors (McCann et al. 2017, section 3)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.tasks.networks.layers.recurrent import run_rnn

State = tuple[Tensor, Tensor]  # h and c, (B, 2 hidden)


class TranslationEncoder(nn.Module):
    """dropout: of each layer's input."""

    def __init__(self, input_dim: int, hidden: int, num_layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        dims = [input_dim, *[2 * hidden] * (num_layers - 1)]
        self.layers = nn.ModuleList(nn.LSTM(dim, hidden, batch_first=True, bidirectional=True) for dim in dims)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_btd: Tensor, lengths: Tensor) -> tuple[list[Tensor], list[State]]:
        """Return each layer's output (B, T, 2 hidden), zeros at padding, and its last state, [forward, backward].

        lengths (B,) on the CPU.
        """
        outputs, states = [], []
        for layer in self.layers:
            assert isinstance(layer, nn.LSTM)
            x_btd, last = run_rnn(layer, self.dropout(x_btd), lengths)
            outputs.append(x_btd)
            h, c = (torch.cat([state[0], state[1]], -1) for state in last)
            states.append((h, c))
        return outputs, states


def encoder_shapes(input_dim: int, hidden: int, num_layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield name and shape of each parameter of a TranslationEncoder."""
    for number in range(num_layers):
        dim = 2 * hidden if number else input_dim
        for direction in ("", "_reverse"):
            yield f"layers.{number}.weight_ih_l0{direction}", (4 * hidden, dim)
            yield f"layers.{number}.weight_hh_l0{direction}", (4 * hidden, hidden)
            yield f"layers.{number}.bias_ih_l0{direction}", (4 * hidden,)
            yield f"layers.{number}.bias_hh_l0{direction}", (4 * hidden,)
