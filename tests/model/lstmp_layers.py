"""LSTMP layers with random weights, inputs for them, and the gradients of a fixed sum over their outputs."""

import torch
from torch import Tensor

from pipeline.model.lstmp import LSTMP, LSTMPState


def layer_of(
    cell_clip: float | None, proj_clip: float | None, dtype: torch.dtype, sizes: tuple[int, int, int]
) -> LSTMP:
    layer = LSTMP(*sizes, cell_clip, proj_clip).to(dtype)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return layer


def inputs_of(layer: LSTMP, steps: int, lanes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, h and c, all of which require gradients."""
    generator = torch.Generator().manual_seed(2)
    shapes = ((2, steps, lanes, layer.weight_input.shape[1]), (2, lanes, layer.proj_dim), (2, lanes, layer.hidden_dim))
    dtype = layer.bias.dtype
    x, h, c = (torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) * 0.5 for s in shapes)
    return x.requires_grad_(), h.requires_grad_(), c.requires_grad_()


def results_and_gradients(run: object, layer: LSTMP, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return y, h, c, and the gradients for inputs and weights of a weighted sum over y, h and c.

    The weights of the sum are random and always the same.
    """
    y, (h, c) = run(inputs[0], LSTMPState(*inputs[1:]))
    generator = torch.Generator().manual_seed(3)
    total = sum((v * torch.randn(v.shape, generator=generator).to(v.dtype)).sum() for v in (y, h, c))
    gradients = torch.autograd.grad(total, [*inputs, *layer.parameters()])
    return [y.detach(), h.detach(), c.detach(), *gradients]
