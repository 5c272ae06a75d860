"""The places of ELMo: a mix for each place, one layer alone, the penalty, dropout, and refused settings."""

import dataclasses

import pytest
import torch

from pipeline.config.schema import ConfigError
from pipeline.config.task_networks import ElmoConfig
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.sequences import Sequences, Tables, WordTable
from tests.tasks.networks.made_up import DIM, LAYERS, layers_of

TEXTS = (("a", "b", "c"), ("d",))


def sequences() -> Sequences:
    return dataclasses.replace(Tables(WordTable(("a", "b"))).sequences(TEXTS), elmo=layers_of(TEXTS))


def placement(**options: object) -> ElmoPlacement:
    return ElmoPlacement(ElmoConfig(**{"dropout": 0.0, **options}), LAYERS, DIM)  # type: ignore[arg-type]


def test_each_place_has_its_own_mix() -> None:
    both, given = placement(placement="both"), sequences()
    x = torch.randn(2, 3, 4)
    assert (both.input_dim, both.output_dim) == (DIM, DIM)
    assert len(list(both.parameters())) == 4
    with torch.no_grad():
        both.mixes["output"].gamma.fill_(3.0)  # type: ignore[union-attr]
        both.mixes["output"].scalars.copy_(torch.tensor([0.0, 1.0, 0.0]))  # type: ignore[union-attr]
    layers = given.elmo
    assert layers is not None
    weights = torch.softmax(torch.tensor([0.0, 1.0, 0.0]), 0)
    torch.testing.assert_close(both.at_input(x, given), torch.cat([x, layers.mean(0)], -1))
    expected = 3 * torch.tensordot(weights, layers, 1)
    torch.testing.assert_close(both.at_output(x, given), torch.cat([x, expected], -1))


@pytest.mark.parametrize(("place", "dims"), [("none", (0, 0)), ("input", (DIM, 0)), ("output", (0, DIM))])
def test_a_place_without_elmo_returns_its_input_unchanged(place: str, dims: tuple[int, int]) -> None:
    x, given = torch.randn(2, 3, 4), sequences()
    one = placement(placement=place)
    assert (one.input_dim, one.output_dim) == dims
    for width, found in zip(dims, (one.at_input(x, given), one.at_output(x, given)), strict=True):
        assert found is x if width == 0 else found.shape == (2, 3, 4 + DIM)


@pytest.mark.parametrize(("layers", "number"), [("top", 2), ("0", 0), ("1", 1), ("2", 2)])
def test_one_layer_is_scaled_by_a_learned_gamma_and_has_no_penalty(layers: str, number: int) -> None:
    one, given = placement(layers=layers, l2=1.0), sequences()
    assert [tuple(p.shape) for p in one.parameters()] == [()]
    assert given.elmo is not None
    torch.testing.assert_close(one.at_input(torch.zeros(2, 3, 0), given), given.elmo[number])
    assert not one.l2_penalty()


def test_the_penalty_is_lambda_times_the_squared_raw_weights_of_all_places() -> None:
    both = placement(placement="both", l2=0.1)
    with torch.no_grad():
        for place, value in (("input", 2.0), ("output", 3.0)):
            both.mixes[place].scalars.fill_(value)  # type: ignore[union-attr]
            both.mixes[place].gamma.fill_(100.0)  # type: ignore[union-attr]
    assert float(both.l2_penalty().detach()) == pytest.approx(0.1 * (3 * 4 + 3 * 9))
    assert both.learned()["input"] == (pytest.approx([1 / 3] * 3), 100.0)


def test_layer_norm_is_over_all_words_of_the_batch_without_padding() -> None:
    normed, given = placement(layers="1", layer_norm=True), sequences()
    found = normed.at_input(torch.zeros(2, 3, 0), given).detach()[given.mask]
    assert float(found.mean()) == pytest.approx(0, abs=1e-5)
    assert float(found.var(correction=0)) == pytest.approx(1, abs=1e-4)
    assert not normed.at_input(torch.zeros(2, 3, 0), given)[~given.mask].any()


def test_dropout_is_elementwise_after_mixing_and_in_training_only() -> None:
    dropped, given = placement(dropout=0.5), sequences()
    whole = dropped.eval().at_input(torch.zeros(2, 3, 0), given)
    torch.manual_seed(1)
    part = dropped.train().at_input(torch.zeros(2, 3, 0), given)
    kept = part != 0
    torch.testing.assert_close(part[kept], 2 * whole[kept])
    assert 0 < int(kept.sum()) < int((whole != 0).sum())


@pytest.mark.parametrize("options", [{"placement": "top"}, {"layers": "last"}, {"layers": "3"}, {"layers": "last"}])
def test_other_settings_are_refused_in_one_sentence(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"elmo\.(placement|layers)=.* must be "):
        placement(**options)
