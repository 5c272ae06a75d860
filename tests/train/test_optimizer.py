"""Adagrad, Adam and Muon against references, sparse rows against dense ones, global clipping, the schedules."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.config.schema import ModelConfig, OptimizerConfig
from pipeline.model.language_model import LanguageModel
from pipeline.train.step.muon import muon_updates
from pipeline.train.step.optimizer import (
    RowOptimizer,
    adagrad,
    adam,
    build_optimizer,
    clip_global_norm_,
    lr_factor,
    muon,
)
from pipeline.train.step.parameter_kinds import ParameterKinds, parameter_kinds

ROWS, WIDTH, STEPS = 12, 5, 20


def gradient(step: int, rows: Tensor | None = None) -> Tensor:
    """Return a dense gradient; with `rows`, it is zero in all other rows."""
    dense = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(100 + step))
    if rows is None:
        return dense
    return torch.zeros_like(dense).index_copy(0, rows, dense[rows])


def touched(step: int) -> Tensor:
    """Return rows that differ from step to step; never rows 10 and 11."""
    return torch.randperm(10, generator=torch.Generator().manual_seed(step))[:4].sort().values


def sparse(dense: Tensor, rows: Tensor) -> Tensor:
    return torch.sparse_coo_tensor(rows[None], dense[rows], dense.shape, is_coalesced=True, check_invariants=True)


def table() -> nn.Parameter:
    return nn.Parameter(torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0)))


def by_adagrad(parameter: nn.Parameter) -> RowOptimizer:
    return RowOptimizer([adagrad([parameter], 0.2, 1.0)])


def by_adam(parameter: nn.Parameter) -> RowOptimizer:
    return RowOptimizer([adam([parameter], 0.01, 0.9, 0.999, 1e-8)])


def by_muon(parameter: nn.Parameter) -> RowOptimizer:
    return RowOptimizer([muon([parameter], 0.01, 0.95)])


def stepped(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, gradients: list[Tensor]) -> Tensor:
    for grad in gradients:
        parameter.grad = grad.clone()
        optimizer.step()
    return parameter.detach()


def test_dense_adagrad_equals_torchs_with_an_initial_accumulator_of_one() -> None:
    ours, theirs = table(), table()
    gradients = [gradient(step) for step in range(STEPS)]
    expected = stepped(theirs, torch.optim.Adagrad([theirs], 0.2, initial_accumulator_value=1.0), gradients)
    torch.testing.assert_close(stepped(ours, by_adagrad(ours), gradients), expected, rtol=0, atol=1e-6)


def test_adagrad_equals_tensorflows_without_an_epsilon() -> None:
    parameter = table()
    weights, accumulator = parameter.detach().double().numpy().copy(), np.ones((ROWS, WIDTH))
    for step in range(STEPS):
        g = gradient(step).double().numpy()
        accumulator += g * g
        weights -= 0.2 * g / np.sqrt(accumulator)
    optimizer = by_adagrad(parameter)
    ours = stepped(parameter, optimizer, [gradient(step) for step in range(STEPS)])
    np.testing.assert_allclose(ours.numpy(), weights, rtol=0, atol=1e-6)
    np.testing.assert_allclose(optimizer.state[parameter]["accumulator"].numpy(), accumulator, rtol=1e-6)


def test_sparse_adagrad_equals_dense_adagrad_and_changes_no_other_rows() -> None:
    ours, theirs = table(), table()
    one, other = by_adagrad(ours), by_adagrad(theirs)
    for step in range(STEPS):
        rows, before = touched(step), ours.detach().clone()
        dense = gradient(step, rows)
        stepped(theirs, other, [dense])
        stepped(ours, one, [sparse(dense, rows)])
        rest = [row for row in range(ROWS) if row not in rows.tolist()]
        assert torch.equal(ours[rest], before[rest])
    assert torch.equal(one.state[ours]["accumulator"], other.state[theirs]["accumulator"])
    assert torch.equal(ours, theirs)
    assert torch.equal(ours[10:], table()[10:])


def test_dense_adam_equals_torchs() -> None:
    ours, theirs = table(), table()
    gradients = [gradient(step) for step in range(STEPS)]
    expected = stepped(theirs, torch.optim.Adam([theirs], 0.01), gradients)
    torch.testing.assert_close(stepped(ours, by_adam(ours), gradients), expected, rtol=0, atol=1e-6)


def test_sparse_adam_equals_torchs_and_changes_no_other_rows() -> None:
    ours, theirs = table(), table()
    one, other = by_adam(ours), torch.optim.SparseAdam([theirs], 0.01)
    for step in range(STEPS):
        rows, before = touched(step), ours.detach().clone()
        grad = sparse(gradient(step, rows), rows)
        stepped(ours, one, [grad])
        stepped(theirs, other, [grad])
        rest = [row for row in range(ROWS) if row not in rows.tolist()]
        assert torch.equal(ours[rest], before[rest])
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=1e-6)


def test_a_dropped_gradient_changes_nothing_including_adams_step_count() -> None:
    for make in (by_adagrad, by_adam, by_muon):
        parameter = table()
        optimizer = make(parameter)
        stepped(parameter, optimizer, [gradient(0)])
        before, state = parameter.detach().clone(), repr(optimizer.state_dict())
        parameter.grad = None
        optimizer.step()
        assert torch.equal(parameter, before) and repr(optimizer.state_dict()) == state


def test_muon_updates_each_gate_as_a_matrix_of_its_own_with_entries_of_one_size() -> None:
    gates = torch.randn(2, 6, 4 * 10, generator=torch.Generator().manual_seed(1))
    together = nn.Parameter(torch.zeros(2, 6, 40))
    stepped(together, RowOptimizer([muon([together], 1.0, 0.0, blocks=4)]), [gates])
    for gate in range(4):
        own = slice(10 * gate, 10 * (gate + 1))
        matrix = nn.Parameter(torch.zeros(2, 6, 10))
        stepped(matrix, RowOptimizer([muon([matrix], 1.0, 0.0)]), [gates[..., own]])
        torch.testing.assert_close(together.detach()[..., own], matrix.detach())
    assert 0.1 < together.square().mean().sqrt() < 0.18


def updates_of(momenta: list[Tensor]) -> list[Tensor]:
    return muon_updates(momenta, momenta, 0.0)


def by_svd(matrix: np.ndarray) -> np.ndarray:
    """Return the update of a matrix with all its singular values the same, and entries of about 0.14."""
    u, _, vh = np.linalg.svd(matrix, full_matrices=False)
    return 0.14 * math.sqrt(max(matrix.shape)) * (u @ vh)


def test_muon_makes_each_block_of_rows_orthogonal_by_itself() -> None:
    grad = torch.randn(12, 12, generator=torch.Generator().manual_seed(1))
    parameter = nn.Parameter(torch.zeros(12, 12))
    found = stepped(parameter, RowOptimizer([muon([parameter], 1.0, 0.0, blocks=3, axis=-2)]), [grad]).numpy()
    expected = -np.concatenate([by_svd(block) for block in np.split(grad.numpy(), 3)])
    assert np.linalg.norm(found - expected) < 0.3 * np.linalg.norm(expected)  # Newton-Schulz comes to 0.73 to 1.27
    assert np.linalg.norm(expected + by_svd(grad.numpy())) > 0.3 * np.linalg.norm(expected)


@pytest.mark.parametrize(("shape", "blocks", "axis"), [((2, 6, 40), 4, -1), ((2, 8, 6), 1, -1), ((24, 12), 4, -2)])
def test_muon_updates_large_parameters_in_pieces_as_it_does_small_ones(
    shape: tuple[int, ...], blocks: int, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for elements in (1 << 19, 130):  # all together; two matrices at a time
        monkeypatch.setattr("pipeline.train.step.muon._PIECE_ELEMENTS", elements)
        random = torch.Generator().manual_seed(1)
        parameter, gradients = (
            nn.Parameter(torch.zeros(shape)),
            [torch.randn(shape, generator=random) for _ in range(3)],
        )
        optimizer = RowOptimizer([muon([parameter], 0.1, 0.9, blocks=blocks, axis=axis)])
        found.append(stepped(parameter, optimizer, gradients).clone())
    assert found[0].abs().min() > 0
    torch.testing.assert_close(found[0], found[1])


def test_muon_follows_nesterovs_momentum() -> None:
    ours, theirs, mean = table(), table().detach(), torch.zeros(ROWS, WIDTH)
    for step in range(STEPS):
        mean = 0.95 * mean + 0.05 * gradient(step)
        theirs -= 0.01 * updates_of([0.05 * gradient(step) + 0.95 * mean])[0]
    found = stepped(ours, by_muon(ours), [gradient(step) for step in range(STEPS)])
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-4)


def test_a_step_that_the_device_finds_bad_changes_nothing_by_muon() -> None:
    parameter = table()
    optimizer = by_muon(parameter)
    stepped(parameter, optimizer, [gradient(0)])
    before, state = parameter.detach().clone(), repr(optimizer.state_dict())
    parameter.grad = torch.full((ROWS, WIDTH), math.nan)
    optimizer.step(good=torch.tensor(0, dtype=torch.int32))
    assert torch.equal(parameter, before) and repr(optimizer.state_dict()) == state


def test_muon_trains_the_matrices_adam_the_rest_of_the_network_and_adagrad_the_softmax() -> None:
    bilm = LanguageModel(ModelConfig(filters=[[1, 8], [2, 8]], num_highway=1, lstm_dim=12, projection_dim=4), 20)
    optimizer = build_optimizer(OptimizerConfig(name="muon", lr=0.01), parameter_kinds(bilm))
    names = {id(parameter): name for name, parameter in bilm.named_parameters()}
    rules = {names[id(p)]: group["rule"] for group in optimizer.param_groups for p in group["params"]}
    assert rules.keys() == set(names.values())
    by = {rule: {name for name in rules if rules[name] == rule} for rule in ("muon", "adam", "adagrad")}
    assert by["adagrad"] == {"softmax.weight", "softmax.bias"}
    lstm = {f"layers.{k}.weight_{part}" for k in range(2) for part in ("input", "recurrent", "proj")}
    highways = {f"encoder.highways.0.{part}.weight" for part in ("transform", "carry")}
    assert by["muon"] == {*lstm, *highways, "encoder.projection.weight"}
    blocks = [(len(group["params"]), group["blocks"], group["axis"]) for group in optimizer.param_groups[2:]]
    assert blocks == [(4, 4, -1), (3, 1, -1), (2, 1, -2)]


@pytest.mark.parametrize("bound", [0.5, 10.0, 1e6, None])
def test_dense_and_sparse_gradients_are_clipped_by_one_global_norm(bound: float | None) -> None:
    dense, rows_of = table(), table()
    rows = touched(3)
    dense.grad, rows_of.grad = gradient(1) * 4, sparse(gradient(2, rows) * 4, rows)
    references = [table(), table(), table()]
    references[0].grad, references[1].grad = gradient(1) * 4, gradient(2, rows) * 4
    expected = torch.nn.utils.clip_grad_norm_(references, math.inf if bound is None else bound)
    norm = clip_global_norm_([dense, rows_of, table()], bound)
    torch.testing.assert_close(norm, expected)
    # torch adds 1e-6 to the norm before it divides, TF does not.
    torch.testing.assert_close(dense.grad, references[0].grad, rtol=1e-6, atol=0)
    torch.testing.assert_close(rows_of.grad.to_dense(), references[1].grad, rtol=1e-6, atol=0)


def schedule(**changes: Any) -> list[float]:
    config = OptimizerConfig(**({"lr": 0.4} | changes))
    return [config.lr * lr_factor(config, step, 100) for step in range(101)]


def test_schedules_start_and_end_at_the_right_rates() -> None:
    assert set(schedule()) == {0.4}
    linear, cosine = schedule(schedule="linear"), schedule(schedule="cosine")
    assert linear[0] == cosine[0] == 0.4
    assert linear[50] == pytest.approx(0.2) and cosine[50] == pytest.approx(0.2)
    assert linear[25] == pytest.approx(0.3) and cosine[25] == pytest.approx(0.2 * (1 + math.cos(math.pi / 4)))
    assert linear[99] == pytest.approx(0.004) and linear[100] == 0 and cosine[100] == pytest.approx(0)
    assert all(a > b for rates in (linear, cosine) for a, b in itertools.pairwise(rates))


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_warm_up_rises_in_equal_steps_and_never_has_rate_zero(kind: str) -> None:
    rates = schedule(schedule=kind, warmup_steps=10)
    assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)])
    assert rates[9] == rates[10] == 0.4
    assert (rates[100] == pytest.approx(0)) == (kind != "constant")


def test_the_config_chooses_the_optimizer() -> None:
    network, softmax = table(), table()
    for name, rules in (("adagrad", ["adagrad"]), ("adam", ["adam"]), ("adam-adagrad", ["adam", "adagrad"])):
        optimizer = build_optimizer(OptimizerConfig(name=name, lr=0.1), ParameterKinds([network, softmax], [softmax]))
        assert [group["rule"] for group in optimizer.param_groups] == rules
        assert [group["rate"] for group in optimizer.param_groups] == [0.1, 0.2][: len(rules)]
    assert [group["params"] for group in optimizer.param_groups] == [[network], [softmax]]


def test_each_group_has_its_own_rule_and_rate_under_one_schedule() -> None:
    both, apart = [table(), table()], [table(), table()]
    together = build_optimizer(OptimizerConfig(name="adam-adagrad", lr=0.01), ParameterKinds(both, [both[1]]))
    alone = [by_adam(apart[0]), by_adagrad(apart[1])]
    for step in range(STEPS):
        for parameter in (*both, *apart):
            parameter.grad = gradient(step)
        for optimizer in (together, *alone):
            optimizer.schedule(1 - step / STEPS)
            optimizer.step()
    assert torch.equal(both[0], apart[0]) and torch.equal(both[1], apart[1])


def test_a_resumed_optimizer_has_the_saved_accumulators_and_the_new_rate() -> None:
    saved, parameter = by_adagrad(table()), table()
    stepped(saved.param_groups[0]["params"][0], saved, [gradient(0)])
    resumed = RowOptimizer([adagrad([parameter], 0.05, 1.0)])
    resumed.load_state_dict(saved.state_dict())
    resumed.schedule(0.5)
    assert resumed.param_groups[0]["lr"] == 0.025 and resumed.param_groups[0]["params"] == [parameter]
    (sums,) = (state["accumulator"] for state in saved.state.values())
    assert torch.equal(resumed.state[parameter]["accumulator"], sums)
