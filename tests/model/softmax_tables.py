"""Softmax tables with random values, inputs for them, candidates, and gradients of a weighted sum of losses."""

import numpy as np
import torch
from torch import Tensor

from pipeline.model.sampler import LogUniformSampler
from pipeline.model.softmax import Candidates, Softmax

V, P, N = 40, 4, 25


def softmax_of(vocab_size: int = V, proj_dim: int = P, dtype: torch.dtype = torch.float64) -> Softmax:
    torch.manual_seed(0)
    softmax = Softmax(vocab_size, proj_dim).to(dtype)
    with torch.no_grad():
        softmax.bias.normal_()
    return softmax


def inputs_of(softmax: Softmax, positions: int = N) -> tuple[Tensor, Tensor]:
    """Return y (2, N, P), which requires a gradient, and targets (2, N)."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(2, positions, softmax.weight.shape[1], generator=generator, dtype=torch.float64)
    targets = torch.randint(softmax.vocab_size, (2, positions), generator=generator)
    return y.to(softmax.weight.dtype).requires_grad_(), targets


def candidates_of(sets: int, vocab_size: int = V, num_samples: int = 12) -> Candidates:
    sampler = LogUniformSampler(vocab_size, num_samples)
    ids, tries = zip(*(sampler.draw(1, number) for number in range(sets)), strict=True)
    return Candidates(torch.from_numpy(np.stack(ids)), torch.tensor(tries))


def gradients_of(losses: Tensor, wanted: list[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of a sum of the losses with random weights, so that no two positions count the same."""
    weights = torch.rand(losses.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return torch.autograd.grad((losses * weights.to(losses.dtype)).sum(), wanted)
