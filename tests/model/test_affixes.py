"""Rows that words share by their spelling: which words share them, their sums, and their gradients."""

import pytest
import torch
from torch import Tensor

from pipeline.model.affixes import AffixRows, add_shared_rows
from pipeline.model.backend import device
from pipeline.model.softmax import find_places
from tests.model.softmax_tables import candidates_of, gradients_of, inputs_of, softmax_of

SPECIALS = ["<S>", "</S>", "<UNK>"]
WORDS = [*SPECIALS, "the", "The", "walking", "talking", "a", "1,024", "walked", "été", "Été", ",", "-"]


def affixes_of(words: list[str], proj_dim: int = 4) -> AffixRows:
    affixes = AffixRows(words, proj_dim).double()
    torch.nn.init.normal_(affixes.weight[1:], generator=torch.Generator().manual_seed(4))
    return affixes


def shared(affixes: AffixRows, one: str, other: str) -> int:
    """Return how many rows two words share."""
    a, b = (set(affixes.features[WORDS.index(word)].tolist()) - {0} for word in (one, other))
    return len(a & b)


def test_words_share_rows_by_their_ends_their_lower_case_and_their_shape() -> None:
    affixes = AffixRows([*WORDS, *(f"<{n}>" for n in range(100_000))], 4)  # so many rows that none is shared by chance
    assert shared(affixes, "walking", "talking") == 4 + 1  # endings and shape
    assert shared(affixes, "walking", "walked") == 4 + 1  # beginnings and shape
    assert shared(affixes, "the", "The") == 2 + 1  # -e, -he; lower case
    assert shared(affixes, "été", "Été") == 2 + 1
    assert shared(affixes, ",", "-") == 1  # shape
    assert shared(affixes, ",", "1,024") == 0
    assert (affixes.features[WORDS.index("walking")] > 0).sum() == 2 + 2 * 4
    assert (affixes.features[WORDS.index("a")] > 0).sum() == 2 + 2
    assert not affixes.features[: len(SPECIALS)].any()


def test_the_number_of_rows_has_a_bound() -> None:
    few, many = AffixRows(WORDS, 4), AffixRows([*SPECIALS, *map(str, range(200_000))], 4)
    assert len(few.weight) == len(WORDS) and len(many.weight) == 1 << 17
    for affixes in (few, many):
        assert 0 < int(affixes.features.max()) < len(affixes.weight)


def sums_of(affixes: AffixRows, weight: Tensor) -> Tensor:
    """Return the sum of each word's shared rows by plain loops."""
    sums = []
    for features in affixes.features.tolist():
        there = [feature for feature in features if feature]
        sums.append(
            sum((weight[feature] for feature in there), torch.zeros_like(weight[0])) / max(1, len(there)) ** 0.5
        )
    return torch.stack(sums)


def test_rows_and_gradients_are_those_of_plain_sums() -> None:
    affixes = affixes_of(WORDS)
    torch.testing.assert_close(affixes.rows(torch.arange(len(WORDS))), sums_of(affixes, affixes.weight))
    words = torch.tensor([1, 3, 4, 8, 12])  # one without features; "the" and "The" share rows
    of_rows = torch.randn(len(words), 4, dtype=torch.float64)
    (expected,) = torch.autograd.grad((sums_of(affixes, affixes.weight)[words] * of_rows).sum(), [affixes.weight])
    found = affixes.gradient(words, of_rows)
    torch.testing.assert_close(found.to_dense(), expected)
    places = found.indices()[0]
    assert found.is_coalesced() and torch.equal(places, places.unique()) and 0 not in places
    with device.using("kernels"):  # as on a GPU
        torch.testing.assert_close(affixes.float().gradient(words, of_rows.float()), expected.float())


def test_the_sampled_loss_and_its_gradients_are_those_of_the_summed_table() -> None:
    softmax, candidates = softmax_of(), candidates_of(1)
    words = [*SPECIALS, *(f"word{n}" for n in range(softmax.vocab_size - len(SPECIALS)))]
    plain = softmax_of()
    softmax.share_rows(words)
    softmax.affixes = affixes_of(words)
    plain.weight.data = plain.weight + sums_of(softmax.affixes, softmax.affixes.weight.detach())
    y, targets = inputs_of(softmax)
    places = find_places(candidates.ids, targets)
    rows, expected_rows = softmax.touched_rows(places), plain.touched_rows(places)
    losses = softmax.sampled_loss(y, targets, candidates, rows)
    expected = plain.sampled_loss(y, targets, candidates, expected_rows)
    torch.testing.assert_close(losses, expected)
    torch.testing.assert_close(
        gradients_of(losses, [y, rows.weight]), gradients_of(expected, [y, expected_rows.weight])
    )


def test_a_table_has_the_shared_rows_added_only_within_the_context() -> None:
    softmax = softmax_of()
    words = [*SPECIALS, *(f"word{n}" for n in range(softmax.vocab_size - len(SPECIALS)))]
    affixes = softmax.affixes = affixes_of(words)
    own, parameter = softmax.weight.detach().clone(), softmax.weight
    whole = own + sums_of(affixes, affixes.weight.detach())
    torch.testing.assert_close(add_shared_rows(own, affixes), whole)
    with pytest.raises(KeyError), softmax.with_shared_rows_added():
        torch.testing.assert_close(softmax.weight.detach(), whole)
        raise KeyError
    assert softmax.weight is parameter and torch.equal(softmax.weight, own) and softmax.affixes is affixes
