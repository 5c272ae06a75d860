"""Sampled and full losses against plain dense ones: values, gradients, and the rows that they touch."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck

from pipeline.model import softmax as softmax_module
from pipeline.model.softmax import Candidates, Rows, find_places
from tests.dispatch import TorchDispatchMode
from tests.model import plain_torch
from tests.model.softmax_tables import N, P, V, candidates_of, gradients_of, inputs_of, softmax_of


def all_words(vocab_size: int = V) -> Candidates:
    """Return all words in a random order, with so many draws that each word is certain to be a candidate."""
    order = torch.randperm(vocab_size, generator=torch.Generator().manual_seed(2))
    return Candidates(order[None], torch.tensor([10**9]))


def dense(values: Tensor, rows: Rows, size: int) -> Tensor:
    return values.new_zeros(size, *values.shape[1:]).index_add(0, rows.ids, values)


def test_a_table_that_starts_from_unigrams_gives_each_word_its_share_for_any_input() -> None:
    softmax = softmax_of()
    y, targets = inputs_of(softmax)
    shares = torch.arange(V, dtype=torch.float64).flip(0) / V  # word 0 is last: half the share of the rarest
    softmax.start_as_unigrams(shares)
    seen = torch.cat([shares[:-1], torch.tensor([0.5 / V])])
    expected = -(seen / seen.sum()).log()[targets.flatten()]
    torch.testing.assert_close(softmax.full_loss(y.flatten(0, 1), targets.flatten()), expected)
    softmax.start_as_unigrams(torch.zeros(V))
    assert torch.equal(softmax.bias, torch.zeros_like(softmax.bias))


@pytest.mark.parametrize("sets", [1, 2])
def test_sampled_loss_and_gradients_equal_those_of_the_dense_formula_of_tf(sets: int) -> None:
    softmax, candidates = softmax_of(), candidates_of(sets)
    y, targets = inputs_of(softmax)
    hits = (candidates.ids[:, None, :] == targets[:sets, :, None]).sum()
    assert 0 < hits < N, "some targets are candidates, some are not"
    rows = softmax.touched_rows(find_places(candidates.ids, targets))
    ours = softmax.sampled_loss(y, targets, candidates, rows)
    theirs = plain_torch.sampled_loss(y, targets, candidates, softmax.weight, softmax.bias)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    dy, dweight, dbias = gradients_of(ours, [y, rows.weight, rows.bias])
    expected = gradients_of(theirs, [y, softmax.weight, softmax.bias])
    torch.testing.assert_close((dy, dense(dweight, rows, V), dense(dbias, rows, V)), expected, atol=1e-12, rtol=1e-12)


def test_each_of_two_sets_of_candidates_belongs_to_one_direction() -> None:
    softmax, candidates = softmax_of(), candidates_of(2)
    y, targets = inputs_of(softmax)
    rows = softmax.touched_rows(find_places(candidates.ids, targets))
    both = softmax.sampled_loss(y, targets, candidates, rows)
    for d in range(2):
        alone = Candidates(candidates.ids[d : d + 1], candidates.num_tries[d : d + 1])
        rows = softmax.touched_rows(find_places(alone.ids, targets))
        torch.testing.assert_close(both[d], softmax.sampled_loss(y, targets, alone, rows)[d])


def test_sampled_loss_and_gradients_are_the_full_ones_when_every_word_is_a_candidate() -> None:
    softmax, candidates = softmax_of(), all_words()
    y, targets = inputs_of(softmax)
    rows = softmax.touched_rows(find_places(candidates.ids, targets))
    sampled = softmax.sampled_loss(y, targets, candidates, rows)
    full = softmax.full_loss(y.flatten(0, 1), targets.flatten()).view_as(sampled)
    torch.testing.assert_close(sampled, full)
    ours = gradients_of(sampled, [y, rows.weight, rows.bias])
    torch.testing.assert_close(ours, gradients_of(full, [y, softmax.weight, softmax.bias]))


def test_the_sampled_gradient_approaches_the_full_one_with_more_candidates() -> None:
    softmax = softmax_of(vocab_size=300)
    y, targets = inputs_of(softmax, positions=400)
    full = F.cross_entropy(y.flatten(0, 1) @ softmax.weight.T + softmax.bias, targets.flatten(), reduction="none")
    (exact,) = gradients_of(full.view(2, -1), [y])
    errors = []
    for num_samples in (10, 100, 290):
        candidates = candidates_of(1, 300, num_samples)
        rows = softmax.touched_rows(find_places(candidates.ids, targets))
        (near,) = gradients_of(softmax.sampled_loss(y, targets, candidates, rows), [y])
        errors.append(((near - exact).norm() / exact.norm()).item())
    assert errors[0] > 2 * errors[1] > 8 * errors[2] and errors[2] < 0.05


def test_touched_rows_are_candidates_and_targets_and_the_table_gets_no_gradient() -> None:
    softmax, candidates = softmax_of(vocab_size=1000), candidates_of(2, vocab_size=1000)
    y, targets = inputs_of(softmax)
    rows = softmax.touched_rows(find_places(candidates.ids, targets))
    assert rows.ids.tolist() == sorted({*candidates.ids.flatten().tolist(), *targets.flatten().tolist()})
    assert torch.equal(rows.weight, softmax.weight[rows.ids]) and torch.equal(rows.bias, softmax.bias[rows.ids])
    softmax.sampled_loss(y, targets, candidates, rows).sum().backward()
    assert softmax.weight.grad is None and softmax.bias.grad is None
    assert rows.weight.grad is not None and rows.bias.grad is not None
    assert (rows.weight.grad != 0).all() and (rows.bias.grad != 0).all()


@pytest.mark.parametrize("sets", [1, 2])
def test_places_hold_the_row_of_each_word_and_the_targets_that_are_candidates(sets: int) -> None:
    candidates, (_, targets) = candidates_of(sets), inputs_of(softmax_of())
    places = find_places(candidates.ids, targets)
    assert torch.equal(places.ids[places.candidates], candidates.ids)
    assert torch.equal(places.ids[places.targets], targets)
    for d in range(2):
        own = candidates.ids[d % sets].tolist()
        expected = [own.index(target) if target in own else -1 for target in targets[d].tolist()]
        assert places.hits[d].tolist() == expected and -1 in expected and max(expected) >= 0


def test_rows_require_no_gradient_under_no_grad() -> None:
    softmax, candidates = softmax_of(), candidates_of(1)
    y, targets = inputs_of(softmax)
    with torch.no_grad():
        rows = softmax.touched_rows(find_places(candidates.ids, targets))
        quiet = softmax.sampled_loss(y, targets, candidates, rows)
    assert not rows.weight.requires_grad and not quiet.requires_grad
    torch.testing.assert_close(
        quiet,
        softmax.sampled_loss(
            y, targets, candidates, softmax.touched_rows(find_places(candidates.ids, targets))
        ).detach(),
    )


@pytest.mark.parametrize("sets", [1, 2])
def test_sampled_gradients_equal_finite_differences(sets: int) -> None:
    softmax, candidates = softmax_of(vocab_size=12, proj_dim=3), candidates_of(sets, 12, 6)
    y, targets = inputs_of(softmax, positions=5)
    rows = softmax.touched_rows(find_places(candidates.ids, targets))
    assert torch.isin(targets, candidates.ids).any() and not torch.isin(targets, candidates.ids).all()

    def loss(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return softmax.sampled_loss(y, targets, candidates, rows._replace(weight=weight, bias=bias))

    assert gradcheck(loss, (y, rows.weight, rows.bias))


def test_full_gradients_over_several_blocks_equal_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    softmax = softmax_of(vocab_size=2500, proj_dim=1)
    y, targets = inputs_of(softmax, positions=2)
    monkeypatch.setattr(softmax_module, "_BLOCK_ELEMENTS", {"cpu": 1, "cuda": 1})
    assert len(softmax_module._blocks(torch.empty(2500, 1), 4)) == 3

    def loss(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return _full(y, weight, bias, targets.flatten())

    assert gradcheck(loss, (y.detach().flatten(0, 1).requires_grad_(), softmax.weight, softmax.bias), fast_mode=True)


def _full(*arguments: Any) -> Tensor:
    return softmax_module._FullLoss.apply(*arguments)


@pytest.mark.parametrize("vocab_size", [4, 1023, 1024, 1025, 3000])
def test_full_loss_and_gradients_equal_cross_entropy_for_any_number_of_blocks(
    vocab_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(softmax_module, "_BLOCK_ELEMENTS", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr(softmax_module, "_MOST_ROWS", {"cpu": 3})
    softmax = softmax_of(vocab_size)
    y, targets = inputs_of(softmax)
    y, targets = y.flatten(0, 1), targets.flatten()
    targets[:3] = torch.tensor([0, vocab_size - 1, vocab_size - 1])  # the first and the last word, and one word twice
    ours = softmax.full_loss(y, targets)
    theirs = F.cross_entropy(y @ softmax.weight.T + softmax.bias, targets, reduction="none")
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    wanted = [y, softmax.weight, softmax.bias]
    torch.testing.assert_close(gradients_of(ours, wanted), gradients_of(theirs, wanted), atol=1e-12, rtol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Record the size of the largest tensor that any operation makes; a view of an input does not count."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        old = {value.untyped_storage().data_ptr() for value in args if isinstance(value, Tensor)}
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and value.untyped_storage().data_ptr() not in old:
                self.elements = max(self.elements, value.numel())
        return result


def test_full_loss_never_holds_a_logit_for_every_position_and_word() -> None:
    vocab_size, positions = 9000, 2000
    softmax = softmax_of(vocab_size, P, torch.float32)
    y, targets = inputs_of(softmax, positions // 2)
    y, targets = y.flatten(0, 1), targets.flatten()
    with LargestTensor() as largest:
        losses = softmax.full_loss(y, targets)
        ours = torch.autograd.grad(losses.mean(), [y, softmax.weight, softmax.bias])
    assert positions * 1024 <= largest.elements <= 1 << 23 < positions * vocab_size
    with LargestTensor() as largest:
        logits = y @ softmax.weight.T + softmax.bias
        expected = F.cross_entropy(logits, targets, reduction="none")
        theirs = torch.autograd.grad(expected.mean(), [y, softmax.weight, softmax.bias])
    assert largest.elements == positions * vocab_size
    torch.testing.assert_close(losses, expected, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-4)


def test_sampled_loss_allocates_nothing_of_the_size_of_the_vocabulary() -> None:
    vocab_size = 200_000
    softmax, candidates = softmax_of(vocab_size, 1, torch.float32), candidates_of(1, vocab_size, 50)
    y, targets = inputs_of(softmax)
    with LargestTensor() as largest:
        rows = softmax.touched_rows(find_places(candidates.ids, targets))
        softmax.sampled_loss(y, targets, candidates, rows).sum().backward()
    assert largest.elements == 2 * N * 50


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_large_logits_neither_overflow_nor_lose_the_gradient(size: float) -> None:
    softmax, candidates = softmax_of(dtype=torch.float32), candidates_of(1)
    y, targets = inputs_of(softmax)
    y = (y.detach() * size).requires_grad_()
    rows = softmax.touched_rows(find_places(candidates.ids, targets))
    sampled = softmax.sampled_loss(y, targets, candidates, rows)
    full = softmax.full_loss(y.flatten(0, 1), targets.flatten())
    exact = F.cross_entropy(y.flatten(0, 1) @ softmax.weight.T + softmax.bias, targets.flatten(), reduction="none")
    torch.testing.assert_close(full, exact, atol=1e-2, rtol=1e-5)
    for losses in (sampled, full):
        assert losses.isfinite().all() and losses.max() > 1e3
        (dy,) = torch.autograd.grad(losses.sum(), [y])
        assert dy.isfinite().all() and dy.abs().max() > 0.1


def test_a_position_whose_only_candidate_is_its_target_has_no_loss() -> None:
    softmax = softmax_of()
    y, targets = inputs_of(softmax)
    targets[:] = 7
    candidates = Candidates(torch.tensor([[7]]), torch.tensor([3]))
    rows = softmax.touched_rows(find_places(candidates.ids, targets))
    losses = softmax.sampled_loss(y, targets, candidates, rows)
    (dy,) = torch.autograd.grad(losses.sum(), [y])
    assert (losses == 0).all() and (dy == 0).all()


def test_a_value_that_is_not_finite_affects_only_its_own_loss() -> None:
    softmax, candidates = softmax_of(), candidates_of(1)
    y, targets = inputs_of(softmax)
    with torch.no_grad():
        y[1, 3, 0] = torch.nan
    rows = softmax.touched_rows(find_places(candidates.ids, targets))
    for losses in (
        softmax.sampled_loss(y, targets, candidates, rows),
        softmax.full_loss(y.flatten(0, 1), targets.flatten()).view(2, N),
    ):
        assert losses.isnan().nonzero().tolist() == [[1, 3]]
