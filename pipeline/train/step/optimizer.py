"""Adagrad and Adam that update only the touched rows of the softmax, Muon, and one norm of all gradients.

Rows that words share are not in the norm: their gradient is made after clipping.

Each group of parameters names its rule, and its learning rate is its `rate` times the schedule.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipeline.config.schema import OptimizerConfig
from pipeline.model.backend.device import uses_kernels
from pipeline.train.step.muon import HIGHWAY_ROWS, are_larger_than_caches, muon_updates, number_of_blocks, pieces_of
from pipeline.train.step.parameter_kinds import ParameterKinds

Group = dict[str, Any]
State = dict[str, Any]


class RowOptimizer(Optimizer):
    """Update all of a parameter for a dense gradient, and only the gradient's rows for a sparse (coalesced) one."""

    def __init__(self, groups: list[Group]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: None = None, good: Tensor | None = None) -> None:  # type: ignore[override]
        """Update the parameters. good () int32 on the device: if it is 0, the kernels change nothing.

        None: the CPU knows that the step is good. Only kernels can read `good` on the device.
        """
        assert closure is None, "gradients are computed before a step"
        for group in self.param_groups:
            start, update = _RULES[group["rule"]]
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            for parameter in parameters:
                if not self.state[parameter]:
                    self.state[parameter].update(start(parameter, group))
            update(parameters, [self.state[parameter] for parameter in parameters], group, good)

    def schedule(self, factor: float) -> None:
        """Set each group's learning rate to its rate times `factor`."""
        for group in self.param_groups:
            group["lr"] = group["rate"] * factor

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the saved sums and moments; keep the rates and other settings of this optimizer.

        Raises ValueError if these rules cannot have saved the state.
        """
        settings = [{name: value for name, value in group.items() if name != "params"} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, mine in zip(self.param_groups, settings, strict=True):
            group.update(mine)
            for parameter in group["params"]:
                _check_state(parameter, self.state.get(parameter, {}), group)


def adagrad(params: Iterable[Tensor], rate: float, initial_accumulator: float) -> Group:
    """Return a group for TF's Adagrad: accumulator += g^2, w -= lr * g / sqrt(accumulator) (training.py:903-906)."""
    return _group("adagrad", params, rate, initial_accumulator=initial_accumulator)


def adam(params: Iterable[Tensor], rate: float, beta1: float, beta2: float, eps: float) -> Group:
    """Return a group for Adam; a sparse gradient leaves the moments of other rows as in torch.optim.SparseAdam."""
    return _group("adam", params, rate, beta1=beta1, beta2=beta2, eps=eps)


def muon(params: Iterable[Tensor], rate: float, momentum: float, blocks: int = 1, axis: int = -1) -> Group:
    """Return a group for Muon. blocks, axis: matrices that stand side by side in each parameter, see `pieces_of`."""
    return _group("muon", params, rate, momentum=momentum, blocks=blocks, axis=axis)


def _group(rule: str, params: Iterable[Tensor], rate: float, **settings: float) -> Group:
    return {"params": list(params), "rule": rule, "rate": rate, "lr": rate, **settings}


def _start_adagrad(parameter: Tensor, group: Group) -> State:
    return {"accumulator": torch.full_like(parameter, group["initial_accumulator"])}


def _update_by_adagrad(parameter: Tensor, grad: Tensor, state: State, group: Group, good: Tensor | None) -> None:
    accumulator = state["accumulator"]
    rows, values = rows_of(grad)
    if uses_kernels(parameter):
        from pipeline.model.backend import triton_optimizers as kernels

        kernels.adagrad_(parameter, accumulator, values.contiguous(), rows, good, group["lr"])
        return
    assert good is None
    if rows is None:
        accumulator.addcmul_(values, values)
        parameter.addcdiv_(values, accumulator.sqrt(), value=-group["lr"])
        return
    sums = accumulator[rows].addcmul_(values, values)
    accumulator[rows] = sums
    # Bit for bit the dense formula, on the rows.
    parameter.index_copy_(0, rows, parameter[rows].addcdiv_(values, sums.sqrt_(), value=-group["lr"]))


def _start_adam(parameter: Tensor, group: Group) -> State:
    moments = {"mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
    return {"steps": torch.zeros((), device=parameter.device)} | moments


def _update_by_adam(parameter: Tensor, grad: Tensor, state: State, group: Group, good: Tensor | None) -> None:
    steps, mean, square, betas = state["steps"], state["mean"], state["square"], (group["beta1"], group["beta2"])
    rows, values = rows_of(grad)
    steps.add_(1 if good is None else good)
    if uses_kernels(parameter):
        from pipeline.model.backend import triton_optimizers as kernels

        moments = mean, square, values.contiguous()
        kernels.adam_(parameter, *moments, rows, good, steps, group["lr"], betas, group["eps"])
        return
    assert good is None
    scale, correction = (1 - beta ** float(steps) for beta in betas)
    if rows is not None:
        mean, square = mean[rows], square[rows]
    mean.lerp_(values, 1 - betas[0])
    square.mul_(betas[1]).addcmul_(values, values, value=1 - betas[1])
    denominator = square.sqrt().div_(math.sqrt(correction)).add_(group["eps"])
    if rows is None:
        parameter.addcdiv_(mean, denominator, value=-group["lr"] / scale)
    else:
        state["mean"][rows], state["square"][rows] = mean, square
        parameter.index_add_(0, rows, mean / denominator, alpha=-group["lr"] / scale)


def _start_muon(parameter: Tensor, group: Group) -> State:
    return {"mean": torch.zeros_like(parameter)}


def _update_by_muon(parameters: list[Tensor], states: list[State], group: Group, good: Tensor | None) -> None:
    one_by_one = not any(map(uses_kernels, parameters)) and are_larger_than_caches(parameters)
    in_pieces = partial(pieces_of, number=group["blocks"], axis=group["axis"], in_caches=one_by_one)
    pieces: list[tuple[Tensor, ...]] = []
    for parameter, state in zip(parameters, states, strict=True):
        assert parameter.grad is not None and not parameter.grad.is_sparse
        pieces.extend(zip(*map(in_pieces, (parameter, parameter.grad, state["mean"])), strict=True))
    for together in [[piece] for piece in pieces] if one_by_one else [pieces]:
        _update_pieces_by_muon(together, group, good)


def _update_pieces_by_muon(pieces: list[tuple[Tensor, ...]], group: Group, good: Tensor | None) -> None:
    """Update views of parameters; pieces: parameter, gradient and momentum (..., M, N) each."""
    decay, grads, means = group["momentum"], [], []
    for _, grad, mean in pieces:
        if good is not None:  # a gradient that is not finite must leave no trace
            grad = torch.where(good.bool(), grad, mean)
        grads.append(grad)
        means.append(mean.lerp_(grad, 1 - decay))
    for (parameter, _, _), update in zip(pieces, muon_updates(grads, means, decay), strict=True):
        if good is not None:
            update = torch.where(good.bool(), update, 0.0)
        parameter.add_(update, alpha=-group["lr"])


_Start = Callable[[Tensor, Group], State]
_UpdateOne = Callable[[Tensor, Tensor, State, Group, Tensor | None], None]
_Update = Callable[[list[Tensor], list[State], Group, Tensor | None], None]


def _one_by_one(update: _UpdateOne) -> _Update:
    def update_all(parameters: list[Tensor], states: list[State], group: Group, good: Tensor | None) -> None:
        for parameter, state in zip(parameters, states, strict=True):
            assert parameter.grad is not None
            update(parameter, parameter.grad, state, group, good)

    return update_all


_RULES: dict[str, tuple[_Start, _Update]] = {
    "adagrad": (_start_adagrad, _one_by_one(_update_by_adagrad)),
    "adam": (_start_adam, _one_by_one(_update_by_adam)),
    "muon": (_start_muon, _update_by_muon),
}


def _check_state(parameter: Tensor, state: State, group: Group) -> None:
    """Raise ValueError if the state of an updated parameter differs from what its rule keeps."""
    kept = _RULES[group["rule"]][0](torch.empty_like(parameter, device="meta"), group)
    want = {name: tuple(tensor.shape) for name, tensor in kept.items()}
    found = {name: tuple(v.shape) if isinstance(v, Tensor) else type(v).__name__ for name, v in state.items()}
    if state and found != want:
        raise ValueError(f"its optimizer keeps {found} of a parameter, where {group['rule']} keeps {want}")


def rows_of(grad: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the row numbers of a gradient, None if it is dense, and its values."""
    if not grad.is_sparse:
        return None, grad
    assert grad.is_coalesced(), "a row that stands twice would be updated from the same old accumulator twice"
    return grad.indices()[0], grad.values()


def build_optimizer(config: OptimizerConfig, kinds: ParameterKinds) -> RowOptimizer:
    """Return an optimizer for all parameters of a model. config.lr: a number, see `resolve_auto`."""
    rate = float(config.lr)
    if config.name == "adagrad":
        return RowOptimizer([adagrad(kinds.every, rate, config.initial_accumulator)])
    moments = config.beta1, config.beta2, config.eps
    if config.name == "adam":
        return RowOptimizer([adam(kinds.every, rate, *moments)])
    groups = [adagrad(kinds.softmax, config.softmax_lr, config.initial_accumulator)]
    if config.name == "muon":
        groups += _muon_groups(config, kinds)
    others = kinds.besides(*(group["params"] for group in groups))
    groups.insert(0, adam(others, rate, *moments))
    return RowOptimizer([group for group in groups if group["params"]])


def _muon_groups(config: OptimizerConfig, kinds: ParameterKinds) -> list[Group]:
    by_muon = partial(muon, rate=float(config.lr), momentum=config.momentum)
    groups = [by_muon(kinds.gates, blocks=4), by_muon(kinds.matrices)]
    if kinds.highways:
        blocks = number_of_blocks(kinds.highways[0].shape[0], HIGHWAY_ROWS)
        groups.append(by_muon(kinds.highways, blocks=blocks, axis=-2))
    return groups


def lr_factor(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Return the factor of the learning rate in a step: a pure function, so that no schedule needs saving."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    if config.schedule == "linear":
        return 1 - progress
    return 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1.0


def clip_global_norm_(params: Sequence[Tensor], bound: float | None) -> Tensor:
    """Scale all gradients, dense and sparse, so that their global norm is at most bound; return the norm before.

    Same as TF's clip_by_global_norm over all variables, as in bilm-tf training.py:926-952.
    """
    values = [rows_of(p.grad)[1] for p in params if p.grad is not None]
    # One kernel for all tensors, which has no public name.
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
    if bound is not None:
        torch._foreach_mul_(values, (bound / norm).clamp(max=1.0))
    return norm
