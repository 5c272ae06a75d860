"""Adagrad and Adam whose step costs the touched rows of the softmax, and one gradient norm over everything."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipeline.config import OptimizerConfig
from pipeline.model.gpu import uses_kernels


class _RowOptimizer(Optimizer):
    """Updates dense gradients whole, and of sparse (coalesced) ones only the rows they hold."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, self._state_of(parameter, group), group)
        return loss

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        raise NotImplementedError


class Adagrad(_RowOptimizer):
    """TF's Adagrad: accumulator += g^2, w -= lr * g / sqrt(accumulator), without an epsilon (training.py:903-906)."""

    def __init__(self, params: Iterable[Tensor], lr: float, initial_accumulator: float) -> None:
        super().__init__(params, {"lr": lr, "initial_accumulator": initial_accumulator})

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state["accumulator"] = torch.full_like(parameter, group["initial_accumulator"])
        return state

    def _update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        accumulator = state["accumulator"]
        if not grad.is_sparse:
            if uses_kernels(parameter) and all(t.is_contiguous() for t in (parameter, accumulator, grad)):
                from pipeline.model import kernels

                return kernels.adagrad_(parameter, accumulator, grad, group["lr"])
            accumulator.addcmul_(grad, grad)
            parameter.addcdiv_(grad, accumulator.sqrt(), value=-group["lr"])
            return
        rows, values = _rows(grad)
        sums = accumulator[rows].addcmul_(values, values)
        accumulator[rows] = sums
        # The dense formula on the rows, to the bit.
        parameter.index_copy_(0, rows, parameter[rows].addcdiv_(values, sums.sqrt_(), value=-group["lr"]))


class Adam(_RowOptimizer):
    """Adam; in sparse gradients the moments of absent rows rest, as in torch.optim.SparseAdam."""

    def __init__(self, params: Iterable[Tensor], lr: float, beta1: float, beta2: float, eps: float) -> None:
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2, "eps": eps})

    def _state_of(self, parameter: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state = self.state[parameter]
        if not state:
            state |= {"steps": 0, "mean": torch.zeros_like(parameter), "square": torch.zeros_like(parameter)}
        return state

    def _update(self, parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["steps"] += 1
        scale = group["lr"] / (1 - group["beta1"] ** state["steps"])
        correction = math.sqrt(1 - group["beta2"] ** state["steps"])
        mean, square, rows = state["mean"], state["square"], None
        if grad.is_sparse:
            rows, grad = _rows(grad)
            mean, square = mean[rows], square[rows]
        mean.lerp_(grad, 1 - group["beta1"])
        square.mul_(group["beta2"]).addcmul_(grad, grad, value=1 - group["beta2"])
        denominator = square.sqrt().div_(correction).add_(group["eps"])
        if rows is None:
            parameter.addcdiv_(mean, denominator, value=-scale)
        else:
            state["mean"][rows], state["square"][rows] = mean, square
            parameter.index_add_(0, rows, mean / denominator, alpha=-scale)


def _rows(grad: Tensor) -> tuple[Tensor, Tensor]:
    assert grad.is_coalesced(), "a row that stands twice would be updated from the same old accumulator twice"
    return grad._indices()[0], grad._values()


def build_optimizer(config: OptimizerConfig, params: Iterable[Tensor]) -> Optimizer:
    if config.name == "adagrad":
        return Adagrad(params, config.lr, config.initial_accumulator)
    return Adam(params, config.lr, config.beta1, config.beta2, config.eps)


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """The rate of a step as a pure function, so that no schedule has to be saved or restored."""
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
    if config.schedule == "linear":
        return config.lr * (1 - progress)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else config.lr


def clip_global_norm_(params: Sequence[Tensor], bound: float | None) -> Tensor:
    """Scale all gradients, dense and sparse, so that their one norm is at most bound; returns the norm before.

    TF's clip_by_global_norm over all variables, as in bilm-tf training.py:926-952.
    """
    values = [p.grad._values() if p.grad.is_sparse else p.grad for p in params if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(values)))
    if bound is not None:
        torch._foreach_mul_(values, (bound / norm).clamp(max=1.0))
    return norm
