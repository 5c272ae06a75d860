"""bf16 autocast on the CPU: results are near those in float32, and cell state and statistics are in float32."""

import pytest
import torch
from torch import Tensor

from pipeline.model.bilm import DropoutKey, States
from pipeline.model.language_model import LanguageModel
from pipeline.model.sampler import LogUniformSampler
from pipeline.model.softmax import Candidates, Softmax, find_places
from tests.model import tiny

V = 50


def make() -> LanguageModel:
    """Return a model with its initial weights, from which training starts."""
    torch.manual_seed(0)
    filters = [[1, 8], [2, 8], [3, 16], [5, 16]]
    model = tiny.config(filters=filters, character_dim=8, lstm_dim=64, projection_dim=24, dropout=0.1, num_highway=2)
    return LanguageModel(model, V)


def step(bilm: LanguageModel, kind: str, bf16: bool) -> tuple[list[Tensor], Tensor, States, dict[str, Tensor]]:
    """Return layers, losses, states and gradients of one training step."""
    bilm.zero_grad()
    window, targets = tiny.window(tiny.random_words(10, 8)), tiny.random_targets(V, 10, 8).flatten(1)
    ids, num_tries = LogUniformSampler(V, 20).draw(1)
    candidates = Candidates(torch.from_numpy(ids)[None], torch.tensor([num_tries]))
    rows = bilm.softmax.touched_rows(find_places(candidates.ids, targets))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        layers, states = bilm(window, bilm.initial_states(8), DropoutKey(1, 1, 0))
        y = layers[-1].flatten(1, 2)
        if kind == "sampled":
            losses = bilm.softmax.sampled_loss(y, targets, candidates, rows)
        else:
            losses = bilm.softmax.full_loss(y.flatten(0, 1), targets.flatten())
        loss = losses.mean()
    loss.backward()
    named = [*bilm.named_parameters(), ("rows.weight", rows.weight), ("rows.bias", rows.bias)]
    return layers, losses, states, {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("kind", ["sampled", "full"])
def test_a_step_in_bf16_is_close_to_the_step_in_float32(kind: str) -> None:
    bilm = make()
    layers, losses, states, gradients = step(bilm, kind, bf16=False)
    low_layers, low_losses, low_states, low_gradients = step(bilm, kind, bf16=True)
    for layer, low in zip(layers, low_layers, strict=True):
        assert low.dtype == torch.float32 and not torch.equal(layer, low), "bf16 was not used"
        assert (low - layer).norm() < 0.02 * layer.norm()
    assert low_losses.dtype == torch.float32
    torch.testing.assert_close(low_losses, losses, atol=0.02, rtol=0.005)
    assert gradients.keys() == low_gradients.keys() and len(gradients) == len(list(bilm.parameters()))
    for name, gradient in gradients.items():
        low = low_gradients[name]
        assert low.isfinite().all() and low.dtype == torch.float32, name
        assert (low - gradient).norm() < 0.05 * gradient.norm(), name
    for state, low_state in zip(states, low_states, strict=True):
        assert low_state.h.dtype == low_state.c.dtype == torch.float32
        torch.testing.assert_close(low_state.c, state.c, atol=0.01, rtol=0.02)


def test_the_cell_state_is_summed_in_float32() -> None:
    """A gate lets in 1/1024 at each of 40 steps. In bf16 the sum would stay at 1."""
    bilm = make()
    layer = bilm.layers[0]
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        hidden = bilm.config.lstm_dim
        layer.bias[:, :hidden] = torch.tensor(1 / 1024).logit()
        layer.bias[:, hidden : 3 * hidden] = 20.0  # j and f are 1
    with torch.autocast("cpu", torch.bfloat16):
        states = bilm.initial_states(2)
        states = [state._replace(c=torch.ones_like(state.c)) for state in states]
        _, states = bilm(tiny.window(tiny.random_words(40, 2)), states)
    torch.testing.assert_close(states[0].c, torch.full_like(states[0].c, 1 + 40 / 1024), atol=1e-5, rtol=0)


def test_the_gradients_of_a_frequent_word_are_summed_exactly() -> None:
    """The sum of 1,600 gradients of 1 is 1,600. Added one by one in bf16 it would be 256."""
    bilm = make()
    words = [[["the"] * 40] * 20] * 2
    with torch.autocast("cpu", torch.bfloat16):
        layers, _ = bilm(tiny.window(words), bilm.initial_states(40))
    layers[0].sum().backward()
    assert bilm.encoder.projection is not None
    gradient = bilm.encoder.projection.bias.grad
    assert gradient is not None and (gradient == 1600).all()


def test_dropout_scales_as_in_float32() -> None:
    """In bf16, 1 / 0.9 is 1.109, which is 0.2 % too low for every value that is kept."""
    bilm = make()
    window, states = tiny.window(tiny.random_words(5, 4)), bilm.initial_states(4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = bilm._drop(bilm(window, states)[0][0], 0, None)
        dropped = bilm._drop(plain, 0, DropoutKey(1, 1, 0))
    kept = (dropped != 0) & (plain != 0)
    torch.testing.assert_close(dropped[kept] / plain[kept], torch.full_like(plain[kept], 1 / 0.9))


def test_the_logit_of_the_target_is_summed_in_float32_in_the_full_loss() -> None:
    """17/16 squared is a tie between two bf16 numbers. With products rounded to bf16, the sum would be off by 0.09."""
    softmax = Softmax(2, 24)
    with torch.no_grad():
        softmax.weight.copy_(torch.tensor([[17 / 16], [0.0]]).expand(2, 24))
        softmax.bias.copy_(torch.tensor([0.0, 100.0]))  # the normaliser is 100 for any first logit
        with torch.autocast("cpu", torch.bfloat16):
            loss = softmax.full_loss(torch.full((1, 24), 17 / 16), torch.tensor([0]))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(100 - 24 * (17 / 16) ** 2, abs=1e-4)
