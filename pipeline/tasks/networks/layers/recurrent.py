"""Bidirectional LSTM and GRU layers over padded batches, by torch.nn (cuDNN on a GPU)."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

Initialiser = Callable[[nn.RNNBase], None]


def run_rnn(rnn: nn.RNNBase, x_btd: Tensor, lengths: Tensor) -> tuple[Tensor, Any]:
    """Return outputs (B, T, 2 hidden), zeros at padding, and what the RNN returns as its last state.

    lengths (B,) on the CPU.
    """
    packed = pack_padded_sequence(x_btd, lengths.clamp(min=1), batch_first=True, enforce_sorted=False)
    outputs, last = rnn(packed)
    return pad_packed_sequence(outputs, batch_first=True, total_length=x_btd.shape[1])[0], last


class Bidirectional(nn.Module):
    """One bidirectional layer: (B, T, D) -> (B, T, 2 hidden), zeros at padding."""

    def __init__(
        self, kind: Literal["lstm", "gru"], input_dim: int, hidden: int, initialise: Initialiser | None = None
    ) -> None:
        super().__init__()
        cell = nn.LSTM if kind == "lstm" else nn.GRU
        self.rnn = cell(input_dim, hidden, batch_first=True, bidirectional=True)
        if initialise is not None:
            initialise(self.rnn)
        self.output_dim = 2 * hidden

    def forward(self, x_btd: Tensor, lengths: Tensor) -> Tensor:
        """lengths (B,) on the CPU."""
        return run_rnn(self.rnn, x_btd, lengths)[0]


class BidirectionalStack(nn.Module):
    """Bidirectional LSTM layers; `between` makes the dropout before each layer but the first."""

    def __init__(
        self,
        input_dim: int,
        hidden: Sequence[int],
        between: Callable[[], nn.Module],
        initialise: Initialiser | None = None,
    ) -> None:
        super().__init__()
        dims = [input_dim, *(2 * h for h in hidden)]
        self.layers = nn.ModuleList(
            Bidirectional("lstm", d, h, initialise) for d, h in zip(dims[:-1], hidden, strict=True)
        )
        self.dropouts = nn.ModuleList(nn.Identity() if i == 0 else between() for i in range(len(hidden)))
        self.output_dim = dims[-1]

    def forward(self, x_btd: Tensor, lengths: Tensor) -> Tensor:
        for dropout, layer in zip(self.dropouts, self.layers, strict=True):
            x_btd = layer(dropout(x_btd), lengths)
        return x_btd


@torch.no_grad()
def xavier_orthogonal_(rnn: nn.RNNBase) -> None:
    """Initialise an LSTM as AllenNLP's ESIM (esim.jsonnet:62-69).

    Input weights Xavier uniform, recurrent weights orthogonal, each as one matrix of all gates; biases 0, the forget
    gate's 1.
    """
    for name, value in rnn.named_parameters():
        if "weight_ih" in name:
            nn.init.xavier_uniform_(value)
        elif "weight_hh" in name:
            nn.init.orthogonal_(value)
        else:
            value.zero_()
            if "bias_hh" in name:
                value[rnn.hidden_size : 2 * rnn.hidden_size] = 1


@torch.no_grad()
def block_orthogonal_(rnn: nn.RNNBase) -> None:
    """Initialise an LSTM as `xavier_orthogonal_`, with the recurrent weights orthogonal for each gate."""
    xavier_orthogonal_(rnn)
    for name, value in rnn.named_parameters():
        if "weight_hh" in name:
            for block in value.split(rnn.hidden_size):
                nn.init.orthogonal_(block)


@torch.no_grad()
def truncated_normal_(rnn: nn.RNNBase) -> None:
    """Initialise a GRU as document-qa (recurrent_layers.py:73-85): weights truncated normal 0.05, biases 0."""
    for name, value in rnn.named_parameters():
        if "weight" in name:
            nn.init.trunc_normal_(value, std=0.05, a=-0.1, b=0.1)
        else:
            value.zero_()
