"""The model in plain torch operations, so that autograd gives the gradients that the hand-written backwards must give.

It takes its parameters from a BiLM, convolves every position, steps one direction at a time, and keeps every logit.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.model.bilm import BiLM, DropoutKey, States, Window
from pipeline.model.dropout import lane_dropout, mix32
from pipeline.model.lstmp import LSTMP, LSTMPState
from pipeline.model.softmax import Candidates
from pipeline.model.token_encoder import TokenEncoder
from tests.model.numpy_bilm import expected_counts


def convolve(encoder: TokenEncoder, characters: Tensor) -> Tensor:
    """Return (U, filters): every filter at every position of every word, then the maximum, then the activation."""
    x = encoder.char_embed[characters.long()].transpose(1, 2)
    peaks = torch.cat([F.conv1d(x, c.weight, c.bias).amax(-1) for c in encoder.convolutions], 1)
    return torch.relu(peaks) if encoder.activation == "relu" else torch.tanh(peaks)


def encode(encoder: TokenEncoder, characters: Tensor) -> Tensor:
    x = convolve(encoder, characters)
    for highway in encoder.highways:
        gate = torch.sigmoid(highway.carry(x))
        x = gate * torch.relu(highway.transform(x)) + (1 - gate) * x
    return x if encoder.projection is None else encoder.projection(x)


def lstmp(layer: LSTMP, x: Tensor, state: LSTMPState) -> tuple[Tensor, LSTMPState]:
    """Return y (2, T, B, P) and the next state."""
    directions = [_lstmp_direction(layer, d, x[d], state.h[d], state.c[d]) for d in range(2)]
    ys, hs, cs = (torch.stack(values) for values in zip(*directions, strict=True))
    return ys, LSTMPState(hs, cs)


def _lstmp_direction(layer: LSTMP, d: int, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kernel, outputs = torch.cat([layer.weight_input[d], layer.weight_recurrent[d]]), []
    for step in x:
        i, j, f, o = (torch.cat([step, h], 1) @ kernel + layer.bias[d]).chunk(4, 1)
        c = torch.sigmoid(f + 1) * c + torch.sigmoid(i) * torch.tanh(j)
        c = c.clamp(-layer.cell_clip, layer.cell_clip)
        h = ((torch.sigmoid(o) * torch.tanh(c)) @ layer.weight_proj[d]).clamp(-layer.proj_clip, layer.proj_clip)
        outputs.append(h)
    return torch.stack(outputs), h, c


def bilm(model: BiLM, window: Window, states: States, key: DropoutKey) -> tuple[list[Tensor], States]:
    """Return every layer (2, T, B, P) and the next states, in training."""
    x = encode(model.encoder, window.characters)[window.word_index]
    layers, next_states = [x], []
    for depth, layer in enumerate(model.layers):
        x = x * _factors(x, model, key, depth)
        y, state = lstmp(layer, x, states[depth])
        x = y + x if depth > 0 and model.config.skip_connections else y
        layers.append(x)
        next_states.append(state)
    layers[-1] = x * _factors(x, model, key, len(model.layers))
    return layers, next_states


def _factors(x: Tensor, model: BiLM, key: DropoutKey, site: int) -> Tensor:
    ones = torch.ones_like(x.detach())
    return lane_dropout(ones, model.config.dropout, mix32(key.seed, key.step, site), key.first_lane)


def sampled_loss(y: Tensor, targets: Tensor, candidates: Candidates, table: Tensor, bias: Tensor) -> Tensor:
    """Return the losses (2, N) of y (2, N, P) over the whole table.

    The formula is TF's sampled_softmax_loss with remove_accidental_hits.
    """
    losses = []
    for d in range(2):
        s = d if len(candidates.ids) == 2 else 0
        ids, num_tries = candidates.ids[s], int(candidates.num_tries[s])
        counts = torch.from_numpy(expected_counts(np.arange(len(table)), len(table), num_tries)).to(y.dtype)
        logits = y[d] @ table.T + bias - counts.log()
        hit = ids == targets[d].unsqueeze(1)
        sampled = logits[:, ids].masked_fill(hit, -torch.inf)
        true = logits.gather(1, targets[d].unsqueeze(1))
        losses.append(torch.logsumexp(torch.cat([true, sampled], 1), 1) - true.squeeze(1))
    return torch.stack(losses)
