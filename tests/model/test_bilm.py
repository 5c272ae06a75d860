"""The whole biLM against its NumPy twin, and its gradients against plain torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.config.schema import ModelConfig
from pipeline.model.bilm import DropoutKey, States, detach
from pipeline.model.dropout import lane_dropout, mix32
from pipeline.model.language_model import LanguageModel
from pipeline.model.lstmp import LSTMPState
from pipeline.model.sampler import LogUniformSampler
from pipeline.model.softmax import Candidates, find_places
from tests.model import plain_torch, tiny
from tests.model.numpy_bilm import NumpyBiLM, State

TOLERANCE = 1e-5


def assert_close(ours: Tensor, theirs: np.ndarray, what: str) -> None:
    error = np.abs(ours.detach().double().numpy() - theirs).max()
    assert error < TOLERANCE, f"{what} differs by {error:.2e}"


def assert_states_close(ours: States, theirs: list[State]) -> None:
    for depth, (state, (h, c)) in enumerate(zip(ours, theirs, strict=True)):
        assert_close(state.h, h, f"h of layer {depth}")
        assert_close(state.c, c, f"c of layer {depth}")


def assert_twins(
    bilm: LanguageModel, words: tiny.Words, ours: States, theirs: list[State]
) -> tuple[States, list[State]]:
    """Check that every layer, every loss and the next states of a window equal those of the twin."""
    twin = NumpyBiLM(bilm.state_dict(), bilm.config)
    window = tiny.window(words, bilm.config.max_characters)
    targets = tiny.random_targets(bilm.softmax.vocab_size, *window.word_index.shape[1:])
    with torch.no_grad():
        layers, _ = bilm(window, ours)
        losses, ours = bilm.token_losses(window, targets, ours)
    expected, theirs = twin.run(words, theirs)
    for depth, (layer, other) in enumerate(zip(layers, expected, strict=True)):
        assert_close(layer, other, f"layer {depth}")
    assert_close(losses, twin.losses(expected[-1], targets.numpy()), "the loss")
    assert_states_close(ours, theirs)
    return ours, theirs


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    filters = draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 4)), min_size=1, max_size=4))
    project = draw(st.booleans())
    return tiny.config(
        character_dim=draw(st.integers(1, 4)),
        filters=[list(f) for f in filters],
        activation=draw(st.sampled_from(["relu", "tanh"])),
        max_characters=draw(st.sampled_from([8, 20, 50])),
        num_highway=draw(st.integers(0, 2)),
        lstm_dim=draw(st.integers(1, 7)),
        projection_dim=draw(st.integers(1, 6)) if project else sum(number for _, number in filters),
        num_layers=draw(st.integers(1, 3)),
        cell_clip=draw(st.sampled_from([None, 3.0, 0.3, 0.05])),
        proj_clip=draw(st.sampled_from([None, 3.0, 0.3, 0.05])),
        skip_connections=draw(st.booleans()),
    )


WORDS = st.sampled_from(tiny.SOME_WORDS) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)


@st.composite
def sentences(draw: st.DrawFn) -> list[tiny.Words]:
    """Draw one to three windows with the same number of lanes."""
    lanes = draw(st.integers(1, 3))
    row = st.lists(WORDS, min_size=lanes, max_size=lanes)
    window = st.integers(1, 4).flatmap(
        lambda steps: st.lists(st.lists(row, min_size=steps, max_size=steps), min_size=2, max_size=2)
    )
    return draw(st.lists(window, min_size=1, max_size=3))


@settings(deadline=None, max_examples=40)
@given(model=models(), windows=sentences(), seed=st.integers(0, 1000))
def test_any_model_on_any_text_equals_its_numpy_twin(model: ModelConfig, windows: list[tiny.Words], seed: int) -> None:
    bilm = tiny.bilm(model, vocab_size=11, seed=seed)
    lanes = len(windows[0][0][0])
    ours, theirs = bilm.initial_states(lanes), NumpyBiLM({}, model).cold_states(lanes)
    for words in windows:
        ours, theirs = assert_twins(bilm, words, ours, theirs)


def test_five_windows_in_a_row_equal_those_of_the_numpy_twin() -> None:
    bilm = tiny.bilm(tiny.config(), seed=1)
    ours, theirs = bilm.initial_states(3), NumpyBiLM({}, bilm.config).cold_states(3)
    for number in range(5):
        ours, theirs = assert_twins(bilm, tiny.random_words(6, 3, seed=number), ours, theirs)


def test_tight_clips_are_reached_and_change_the_result() -> None:
    tight = tiny.bilm(tiny.config(cell_clip=0.2, proj_clip=0.1, skip_connections=False), seed=2)
    words = tiny.random_words(6, 2)
    states, _ = assert_twins(tight, words, tight.initial_states(2), NumpyBiLM({}, tight.config).cold_states(2))
    for state in states:
        assert (state.c.abs() == torch.tensor(0.2)).any() and (state.c.abs() < 0.2).any()
        assert (state.h.abs() == torch.tensor(0.1)).any() and (state.h.abs() < 0.1).any()
    free = tiny.bilm(tiny.config(cell_clip=None, proj_clip=None, skip_connections=False), seed=2)
    with torch.no_grad():
        layers, _ = free(tiny.window(words), free.initial_states(2))
    assert layers[-1].abs().max() > 0.2


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("skip_connections", [True, False])
def test_dropout_is_applied_to_the_input_of_every_layer_and_to_the_top(num_layers: int, skip_connections: bool) -> None:
    model = tiny.config(num_layers=num_layers, skip_connections=skip_connections, dropout=0.4)
    bilm, words = tiny.bilm(model, seed=3), tiny.random_words(4, 3)
    key = DropoutKey(seed=5, step=17, first_lane=6)
    ones = torch.ones(2, 4, 3, model.projection_dim)
    factors = [
        lane_dropout(ones, 0.4, mix32(key.seed, key.step, site), key.first_lane).numpy()
        for site in range(num_layers + 1)
    ]
    with torch.no_grad():
        layers, states = bilm(tiny.window(words), bilm.initial_states(3), key)
    twin = NumpyBiLM(bilm.state_dict(), model)
    expected, next_states = twin.run(words, twin.cold_states(3), factors)
    for depth, (layer, other) in enumerate(zip(layers, expected, strict=True)):
        assert_close(layer, other, f"layer {depth}")
    assert_states_close(states, next_states)


def test_nothing_is_dropped_without_a_key() -> None:
    words = tiny.random_words(3, 2)
    outputs = []
    for dropout in (0.0, 0.5):
        bilm = tiny.bilm(tiny.config(dropout=dropout), seed=4)
        outputs.append(bilm(tiny.window(words), bilm.initial_states(2))[0][-1])
    assert torch.equal(*outputs)


def test_two_windows_equal_one_window_of_twice_the_length() -> None:
    bilm, words = tiny.bilm(tiny.config(), seed=5), tiny.random_words(8, 3)
    with torch.no_grad():
        whole, end = bilm(tiny.window(words), bilm.initial_states(3))
        first, states = bilm(tiny.window([d[:4] for d in words]), bilm.initial_states(3))
        second, states = bilm(tiny.window([d[4:] for d in words]), states)
    for depth in range(3):
        torch.testing.assert_close(torch.cat([first[depth], second[depth]], 1), whole[depth], atol=1e-6, rtol=1e-5)
    for state, other in zip(states, end, strict=True):
        torch.testing.assert_close(state, other, atol=1e-6, rtol=1e-5)


def test_lanes_computed_separately_equal_lanes_computed_together() -> None:
    """Outputs, states, dropout and summed gradients agree, as gradient accumulation and other world sizes require."""
    bilm, words = tiny.bilm(tiny.config(dropout=0.3), seed=6, dtype=torch.float64), tiny.random_words(4, 6)
    outputs, gradients = [], []
    for group in (6, 2):
        bilm.zero_grad()
        tops = []
        for first in range(0, 6, group):
            part = [[row[first : first + group] for row in d] for d in words]
            layers, _ = bilm(tiny.window(part), bilm.initial_states(group), DropoutKey(1, 2, 10 + first))
            layers[-1].pow(2).sum().backward()
            tops.append(layers[-1].detach())
        outputs.append(torch.cat(tops, 2))
        gradients.append([p.grad.clone() for name, p in bilm.named_parameters() if "softmax" not in name])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*gradients)


def test_states_own_their_memory() -> None:
    """A view would keep the output of the whole window in memory, and save it with every checkpoint."""
    bilm = tiny.bilm(tiny.config())
    _, states = bilm(tiny.window(tiny.random_words(9, 2)), bilm.initial_states(2))
    for state in detach(states):
        for value in state:
            assert not value.requires_grad
            assert value.untyped_storage().nbytes() == value.nbytes


def test_one_step_of_one_lane_equals_that_of_the_twin() -> None:
    bilm = tiny.bilm(tiny.config(), seed=7)
    assert_twins(bilm, [[["a"]], [["</S>"]]], bilm.initial_states(1), NumpyBiLM({}, bilm.config).cold_states(1))


def test_losses_of_a_float64_model_are_float64() -> None:
    bilm, words = tiny.bilm(tiny.config(), seed=8, dtype=torch.float64), tiny.random_words(5, 2)
    targets = tiny.random_targets(30, 5, 2)
    losses, _ = bilm.token_losses(tiny.window(words), targets, bilm.initial_states(2))
    twin = NumpyBiLM(bilm.state_dict(), bilm.config)
    expected = twin.losses(twin.run(words, twin.cold_states(2))[0][-1], targets.numpy())
    np.testing.assert_allclose(losses.detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("clips", [(None, None), (0.4, 0.2)])
@pytest.mark.parametrize("kind", ["full", "sampled"])
def test_all_gradients_equal_those_of_plain_torch(kind: str, clips: tuple[float | None, float | None]) -> None:
    """Check the gradients of parameters, table rows and first states over two windows, with dropout."""
    model = tiny.config(cell_clip=clips[0], proj_clip=clips[1], dropout=0.3, num_highway=2)
    bilm = tiny.bilm(model, seed=9, dtype=torch.float64)
    plain = tiny.bilm(model, seed=9, dtype=torch.float64)
    ids, num_tries = LogUniformSampler(30, 8).draw(3)
    candidates = Candidates(torch.from_numpy(ids)[None], torch.tensor([num_tries]))
    ours, theirs = _random_states(bilm), _random_states(bilm)
    starts = [[value for state in states for value in state] for states in (ours, theirs)]
    targets = [tiny.random_targets(30, 4, 3, seed=number) for number in (0, 1)]
    touched = [bilm.softmax.touched_rows(find_places(candidates.ids, target.flatten(1))) for target in targets]
    for number, target in enumerate(targets):
        window, key = tiny.window(tiny.random_words(4, 3, seed=number)), DropoutKey(1, number, 0)
        layers, ours = bilm(window, ours, key)
        other, theirs = plain_torch.bilm(plain, window, theirs, key)
        y, other_y = layers[-1].flatten(1, 2), other[-1].flatten(1, 2)
        target, table, bias = target.flatten(1), plain.softmax.weight, plain.softmax.bias
        if kind == "full":
            loss = bilm.softmax.full_loss(y.flatten(0, 1), target.flatten())
            other_loss = F.cross_entropy(other_y.flatten(0, 1) @ table.T + bias, target.flatten(), reduction="none")
        else:
            loss = bilm.softmax.sampled_loss(y, target, candidates, touched[number])
            other_loss = plain_torch.sampled_loss(other_y, target, candidates, table, bias)
        torch.testing.assert_close(loss.flatten(), other_loss.flatten())
        loss.mean().backward(retain_graph=True)
        other_loss.mean().backward(retain_graph=True)
    for one, other_start in zip(*starts, strict=True):
        torch.testing.assert_close(one.grad, other_start.grad)
    for (name, parameter), twin in zip(bilm.named_parameters(), plain.parameters(), strict=True):
        if kind == "sampled" and name.startswith("softmax"):
            assert parameter.grad is None
            parameter.grad = torch.zeros_like(parameter)
            for rows in touched:
                parameter.grad[rows.ids] += getattr(rows, name.removeprefix("softmax.")).grad
        assert twin.grad is not None and twin.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, twin.grad, msg=lambda text, name=name: f"{name}: {text}")


def _random_states(bilm: LanguageModel) -> States:
    generator = torch.Generator().manual_seed(1)
    return [
        LSTMPState(*(torch.rand(v.shape, generator=generator, dtype=v.dtype).sub(0.5).requires_grad_() for v in state))
        for state in bilm.initial_states(3)
    ]
