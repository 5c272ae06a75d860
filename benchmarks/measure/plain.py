"""The biLM in plain, straightforward PyTorch: the baseline of the benchmarks.

All characters of every position are encoded. AllenNLP's cell runs one direction, layer and step at a time, with
autograd. The softmax table has a dense gradient. With the weights of a BiLM the numbers are the same.
"""

import copy
import ctypes
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.language_model import LanguageModel
from pipeline.model.lstmp import LSTMP
from pipeline.model.softmax import Candidates
from pipeline.model.token_encoder import TokenEncoder

State = tuple[Tensor, Tensor]  # hidden (B, P), memory (B, H)
_DEFAULTS = {-3: 32 << 20, -1: 64 << 20, -4: 65536}  # of mallopt(3): M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_MMAP_MAX


def give_back_freed_memory() -> None:
    """Let glibc return freed memory to the system, as in programs of PyTorch; undo keep_freed_memory."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for parameter, value in _DEFAULTS.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)


class PlainCell(nn.Module):
    """Run one direction of one layer, as allennlp/modules/lstm_cell_with_projection.py does."""

    def __init__(self, layer: LSTMP, direction: int) -> None:
        super().__init__()

        def linear(weight: Tensor) -> nn.Parameter:
            return nn.Parameter(weight[direction].detach().t().contiguous())  # nn.Linear's layout

        self.input, self.state = linear(layer.weight_input), linear(layer.weight_recurrent)
        self.projection = linear(layer.weight_proj)
        self.bias = nn.Parameter(layer.bias[direction].detach().clone())
        self.hidden, self.cell_clip, self.proj_clip = layer.hidden_dim, layer.cell_clip, layer.proj_clip

    def forward(
        self, x_btd: Tensor, lengths: Sequence[int], backward: bool = False, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Run the cell over x. lengths must fall, so that the rows still running are the first ones."""
        rows, steps, _ = x_btd.shape
        out = x_btd.new_zeros(rows, steps, len(self.projection))
        hidden, cell = state or (x_btd.new_zeros(rows, len(self.projection)), x_btd.new_zeros(rows, self.hidden))
        for t in reversed(range(steps)) if backward else range(steps):
            active = sum(length > t for length in lengths)
            gates = F.linear(x_btd[:active, t], self.input)
            gates = gates + F.linear(hidden[:active].clone(), self.state, self.bias)
            i, j, f, o = gates.chunk(4, 1)
            memory = torch.sigmoid(i) * torch.tanh(j) + torch.sigmoid(f + 1) * cell[:active].clone()
            memory = torch.clamp(memory, -self.cell_clip, self.cell_clip)
            output = F.linear(torch.sigmoid(o) * torch.tanh(memory), self.projection)
            output = torch.clamp(output, -self.proj_clip, self.proj_clip)
            cell, hidden = cell.clone(), hidden.clone()
            cell[:active], hidden[:active], out[:active, t] = memory, output, output
        return out, (hidden, cell)


def plain_encode(encoder: TokenEncoder, characters: Tensor) -> Tensor:
    """Encode (N, C) into (N, P): all characters of every word, repeated words included."""
    x = F.embedding(characters.long(), encoder.char_embed).transpose(1, 2)
    x = torch.cat([convolution(x).max(-1).values for convolution in encoder.convolutions], -1)
    x = torch.relu(x) if encoder.activation == "relu" else torch.tanh(x)
    for highway in encoder.highways:
        gate = torch.sigmoid(F.linear(x, highway.carry.weight, highway.carry.bias))
        x = gate * torch.relu(F.linear(x, highway.transform.weight, highway.transform.bias)) + (1 - gate) * x
    return x if encoder.projection is None else F.linear(x, encoder.projection.weight, encoder.projection.bias)


class PlainBiLM(nn.Module):
    """A trainable biLM with copies of a BiLM's weights, run by AllenNLP's cells or by nn.LSTM without clips."""

    def __init__(self, bilm: LanguageModel) -> None:
        super().__init__()
        self.config = bilm.config
        self.encoder = copy.deepcopy(bilm.encoder)
        pairs = [[PlainCell(layer, d) for d in range(2)] for layer in bilm.layers]  # type: ignore[arg-type]
        self.cells = nn.ModuleList(cell for pair in pairs for cell in pair)
        width, hidden = bilm.config.projection_dim, bilm.config.lstm_dim
        self.lstms = nn.ModuleList(nn.LSTM(width, hidden, proj_size=width, batch_first=True) for _ in self.cells)
        self.weight = nn.Parameter(bilm.softmax.weight.detach().clone())
        self.bias = nn.Parameter(bilm.softmax.bias.detach().clone())
        self._log_expected = bilm.softmax._log_expected

    def encode(self, characters: Tensor) -> Tensor:
        """Encode (2, T, B, C) into (2, B, T, P)."""
        return plain_encode(self.encoder, characters.flatten(0, 2)).unflatten(0, characters.shape[:3]).transpose(1, 2)

    def run_layers(
        self, x: Tensor, states: list[State | None], clipped: bool, dropout: float
    ) -> tuple[Tensor, list[State | None]]:
        """Return the top outputs (2, B, T, P) and the next states, one for each layer and direction."""
        streams, states = list(x), list(states)
        for depth in range(self.config.num_layers):
            for d in range(2):
                x, place = F.dropout(streams[d], dropout), 2 * depth + d
                if clipped:
                    y, states[place] = self.cells[place](x, [x.shape[1]] * x.shape[0], state=states[place])
                else:
                    y, states[place] = self.lstms[place](x, states[place])
                streams[d] = y + x if depth and self.config.skip_connections else y
        return F.dropout(torch.stack(streams), dropout), states

    def loss(self, y: Tensor, targets: Tensor, candidates: Candidates) -> Tensor:
        """Return the mean sampled loss of y (2, N, P) for targets (2, N)."""
        losses = []
        for d in range(2):
            ids, tries = (part[d % len(part)] for part in candidates)
            rows = F.embedding(torch.cat([targets[d], ids]), self.weight)
            bias = self.bias[torch.cat([targets[d], ids])]
            bias = bias - self._log_expected(torch.cat([targets[d], ids]), tries).to(bias.dtype)
            number = len(targets[d])
            true = (y[d] * rows[:number]).sum(-1) + bias[:number]
            logits = y[d] @ rows[number:].t() + bias[number:]
            logits = logits.masked_fill(targets[d].unsqueeze(1) == ids, float("-inf"))
            losses.append(F.cross_entropy(torch.cat([true.unsqueeze(1), logits], 1), torch.zeros_like(targets[d])))
        return torch.stack(losses).mean()
