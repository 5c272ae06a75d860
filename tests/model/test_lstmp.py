"""The LSTMP layer's hand-written backward against finite differences and against autograd."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from pipeline.model.lstmp import LSTMPState
from tests.model import plain_torch
from tests.model.lstmp_layers import inputs_of, layer_of, results_and_gradients

CLIPS = [(None, None), (0.3, None), (None, 0.1), (0.3, 0.1)]
NAMES = ("weight_input", "weight_recurrent", "bias", "weight_proj")


@pytest.mark.parametrize(("cell_clip", "proj_clip"), CLIPS)
def test_gradients_equal_finite_differences(cell_clip: float | None, proj_clip: float | None) -> None:
    """Check y, h and c by x, both states and every weight, in float64, with and without clips."""
    layer = layer_of(cell_clip, proj_clip, torch.float64, (3, 4, 2))
    parameters = dict(layer.named_parameters())

    def run(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        call = (x, LSTMPState(h, c))
        y, state = torch.func.functional_call(layer, dict(zip(NAMES, weights, strict=True)), call)
        return y, state.h, state.c

    inputs = inputs_of(layer, steps=4, lanes=2)
    y, _, c = run(*inputs, *(parameters[name] for name in NAMES))
    for values, clip in ((c, cell_clip), (y, proj_clip)):
        assert clip is None or {False, True} == set((values.abs() == clip).flatten().tolist()), "some are clipped"
    assert gradcheck(run, (*inputs, *(parameters[name] for name in NAMES)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [(5, 7, 3), (16, 64, 16), (1, 1, 1)])
@pytest.mark.parametrize(("steps", "lanes"), [(6, 3), (1, 4), (5, 1), (1, 1)])
@pytest.mark.parametrize(("cell_clip", "proj_clip"), [(None, None), (0.3, 0.1)])
def test_results_and_gradients_equal_those_of_plain_torch(
    cell_clip: float | None, proj_clip: float | None, steps: int, lanes: int, sizes: tuple[int, int, int],
    dtype: torch.dtype,
) -> None:  # fmt: skip
    """In float32 the bounds 0.3 and 0.1 are rounded."""
    layer = layer_of(cell_clip, proj_clip, dtype, sizes)
    inputs = inputs_of(layer, steps, lanes)
    ours = results_and_gradients(layer, layer, inputs)
    theirs = results_and_gradients(lambda x, state: plain_torch.lstmp(layer, x, state), layer, inputs)
    tolerance = 3e-5 if dtype is torch.float32 else 1e-12
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance * max(1.0, other.abs().max().item()), rtol=0)


def test_no_gradient_flows_through_a_clipped_value() -> None:
    layer = layer_of(0.01, None, torch.float64, (2, 3, 2))
    x, h, c = inputs_of(layer, steps=2, lanes=2)
    with torch.no_grad():
        layer.bias[:, :6] = 5.0  # i and j are wide open: every cell is at its bound at every step
    y, state = layer(x, LSTMPState(h, c))
    assert (state.c == 0.01).all()
    (y.sum() + state.c.sum()).backward()
    assert c.grad is not None and (c.grad == 0).all()
    gate_gradients = layer.bias.grad
    assert gate_gradients is not None
    assert (gate_gradients[:, :9] == 0).all() and (gate_gradients[:, 9:] != 0).all()


def test_the_directions_do_not_affect_each_other() -> None:
    layer = layer_of(3.0, 3.0, torch.float64, (3, 4, 2))
    x, h, c = inputs_of(layer, steps=4, lanes=2)
    y, _ = layer(x, LSTMPState(h, c))
    with torch.no_grad():
        changed = x.clone()
        changed[1] += 1.0
    other, _ = layer(changed, LSTMPState(h, c))
    assert torch.equal(y[0], other[0]) and not torch.equal(y[1], other[1])
    y[0].sum().backward()
    for value in (x, h, c, *layer.parameters()):
        assert value.grad is not None
        first, second = value.grad[0], value.grad[1]
        assert (first != 0).any() and (second == 0).all()


def test_a_state_that_requires_no_gradient_gets_none() -> None:
    layer = layer_of(3.0, 3.0, torch.float64, (3, 4, 2))
    x, h, c = inputs_of(layer, steps=4, lanes=2)
    free = results_and_gradients(layer, layer, (x, h, c))
    h, c = h.detach(), c.detach()
    y, state = layer(x, LSTMPState(h, c))
    generator = torch.Generator().manual_seed(3)
    total = sum((v * torch.randn(v.shape, generator=generator).to(v.dtype)).sum() for v in (y, *state))
    gradients = torch.autograd.grad(total, [x, *layer.parameters()])
    torch.testing.assert_close([free[3], *free[6:]], list(gradients))
    assert h.grad is None and c.grad is None


def test_the_input_and_the_first_state_are_not_changed() -> None:
    layer = layer_of(0.3, 0.1, torch.float32, (3, 4, 2))
    inputs = inputs_of(layer, steps=4, lanes=2)
    before = [value.detach().clone() for value in inputs]
    results_and_gradients(layer, layer, inputs)
    assert all(torch.equal(value, old) for value, old in zip(inputs, before, strict=True))


def test_a_value_that_is_not_finite_is_not_hidden_by_the_clips() -> None:
    layer = layer_of(0.3, 0.1, torch.float32, (3, 4, 2))
    x, h, c = inputs_of(layer, steps=4, lanes=2)
    with torch.no_grad():
        x[0, 1, 0, 0] = math.nan
    y, _ = layer(x, LSTMPState(h, c))
    y.sum().backward()
    assert y[0, 1:, 0].isnan().all() and not y[:, :, 1].isnan().any()
    assert layer.weight_input.grad is not None and layer.weight_input.grad[0].isnan().any()
