"""A stack of LSTM layers with highway connections whose direction alternates from layer to layer.

Sources: He et al. 2017; deep_srl theano/layer.py:199-218; AllenNLP stacked_alternating_lstm.py, augmented_lstm.py.
"""

import torch
from torch import Tensor, nn


class HighwayLstmLayer(nn.Module):
    """One layer in one direction.

        i, f, o, r = sigmoid(W x + U h),   j = tanh(W x + U h),   k = W x
        c = f * c + i * j,   h = r * o * tanh(c) + (1 - r) * k

    The gates i, f, o, r, then j, then k are blocks of one input projection (6 blocks, one matmul for all words) and one
    state projection (5 blocks). One bias for each block, as in deep_srl; AllenNLP has a second, redundant one. Each
    block starts orthogonal, biases at 0, the forget gate's at 1. dropout: on h where it enters the next step, one mask
    a sequence, as in AllenNLP (deep_srl drops the layer's output too).
    """

    def __init__(self, input_dim: int, hidden: int, dropout: float, backward: bool) -> None:
        super().__init__()
        self.input_projection = nn.Linear(input_dim, 6 * hidden)
        self.state_projection = nn.Linear(hidden, 5 * hidden, bias=False)
        self.hidden, self.dropout, self.backward = hidden, dropout, backward
        with torch.no_grad():
            for projection in (self.input_projection, self.state_projection):
                for block in projection.weight.split(hidden):
                    nn.init.orthogonal_(block)
            self.input_projection.bias.zero_()
            self.input_projection.bias[hidden : 2 * hidden] = 1

    def forward(self, x_btd: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, hidden); values at padding mean nothing."""
        order = _reversed_order(lengths, x_btd.shape[1], x_btd.device) if self.backward else None
        x_btd = _reordered(x_btd, order)
        h_tbh = self._steps(self.input_projection(x_btd.transpose(0, 1)))
        return _reordered(h_tbh.transpose(0, 1), order)

    def _steps(self, projected: Tensor) -> Tensor:
        hidden = self.hidden
        h = c = projected.new_zeros(projected.shape[1], hidden)
        keep = nn.functional.dropout(torch.ones_like(h), self.dropout) if self.training and self.dropout else None
        weight = self.state_projection.weight.T
        outputs = []
        for gates_x, k in zip(*(part.unbind() for part in projected.split([5 * hidden, hidden], -1)), strict=True):
            gates = torch.addmm(gates_x, h if keep is None else h * keep, weight)
            i, f, o, r = torch.sigmoid(gates[:, : 4 * hidden]).chunk(4, 1)
            c = torch.addcmul(i * torch.tanh(gates[:, 4 * hidden :]), f, c)
            h = torch.lerp(k, o * torch.tanh(c), r)
            outputs.append(h)
        return torch.stack(outputs)


class AlternatingHighwayLstm(nn.Module):
    """Layer l reads forward if l is even, backward if l is odd, and gets the output of the layer below."""

    def __init__(self, input_dim: int, hidden: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            HighwayLstmLayer(hidden if number else input_dim, hidden, dropout, backward=number % 2 == 1)
            for number in range(num_layers)
        )
        self.output_dim = hidden

    def forward(self, x_btd: Tensor, lengths: Tensor) -> Tensor:
        """(B, T, hidden); values at padding mean nothing. lengths (B,) on the CPU."""
        for layer in self.layers:
            x_btd = layer(x_btd, lengths)
        return x_btd


def _reversed_order(lengths: Tensor, width: int, device: torch.device) -> Tensor:
    """(B, T): places that reverse each sequence and leave its padding behind it."""
    places = torch.arange(width).expand(len(lengths), width)
    return torch.where(places < lengths[:, None], lengths[:, None] - 1 - places, places).to(device)


def _reordered(x_btd: Tensor, order: Tensor | None) -> Tensor:
    return x_btd if order is None else x_btd.gather(1, order[..., None].expand_as(x_btd))
