"""A fake GPU: its tensors claim to be on a GPU while the CPU computes, and what would happen on a GPU is recorded.

Run as a program, it trains a biLM for a few steps through the module's own hooks, with interpreted kernels, and the
same steps in plain torch on the CPU, once for each list of settings. For each list it prints a line of JSON: where the
CPU would have waited for the GPU, and how many launches a step had. An operation that mixes devices is an error. The
program needs a process of its own, because torch registers such a device for the whole process.

python -m tests.train.paper_gpu DATASET '["key=value", ...]' ...
"""

import copy
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration

from data_prep.dataset.open import open_dataset
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.model.backend import device as gpu
from pipeline.model.backend import triton_kernels, triton_optimizers, triton_softmax
from pipeline.model.language_model import LanguageModel
from pipeline.train.auto import resolve_auto
from pipeline.train.step.finite_check import StepResult, _Pending
from pipeline.train.step.inputs import Preparation, StepInputs
from pipeline.train.step.module import BiLMModule
from pipeline.train.step.state import TrainingState
from tests.dispatch import TorchDispatchMode, no_dispatch, tree_leaves, tree_map
from tests.train.reference_steps import STEPS, batches

WAITING = ("_local_scalar_dense", "nonzero", "_unique2", "unique_consecutive", "masked_select", "equal", "tolist")
KERNELS = ("cell_forward", "cell_backward", "clip_backward", "add_exponentials", "to_probabilities_", "dropout",
           "adagrad_", "adam_")  # fmt: skip
IN_PLACE_VIEWS = ("squeeze_", "unsqueeze_", "t_", "transpose_")
RECORDED = ("_forward_steps", "_backward_steps")  # recorded as CUDA graphs on a real GPU


# torch has only these private names to register a device that is written in Python.
class _Backend(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


_PARTS = _Backend(), backend_registration._DummyPrivateUse1Hook(), backend_registration._DummyDeviceGuard()
backend_registration._setup_privateuseone_for_python_backend("paper", *_PARTS)
DEVICE = torch.device("paper:0")


def _linear_in_bf16(*tensors: Tensor) -> Tensor:
    with torch.autocast("paper", enabled=False):
        return torch.nn.functional.linear(*(x.to(torch.bfloat16) for x in tensors))


_AUTOCAST = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
_AUTOCAST.fallback(torch.library.fallthrough_kernel)
_OPERATIONS = torch.library.Library("aten", "IMPL")  # the only operation of autocast that the model leaves to it
_OPERATIONS.impl("linear", _linear_in_bf16, "AutocastPrivateUse1")


class Log:
    """What happened: waits, by place; launches of one step; and launches that a graph would replay."""

    def __init__(self) -> None:
        self.waits: Counter[str] = Counter()
        self.results: list[tuple[int, int]] = []  # the step of each result, and the step in which the CPU read it
        self.launches = self.recorded = 0

    def launch(self) -> None:
        is_recorded = any(code.co_name in RECORDED for code in _callers())
        self.recorded, self.launches = self.recorded + is_recorded, self.launches + (not is_recorded)

    def wait(self, name: str) -> None:
        place = next(
            (f"{Path(c.co_filename).name}:{c.co_name}" for c in _callers() if "/pipeline/" in c.co_filename), "?"
        )
        self.waits[f"{place} by {name}"] += 1


def _callers() -> Iterator[CodeType]:
    """Yield the code of all callers, the innermost first. The traceback module would read source files each time."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame.f_code
        frame = frame.f_back


LOG = Log()


class OnPaper(torch.Tensor):
    """value: the CPU tensor that holds the values."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> "OnPaper":
        layout = {} if value.is_sparse else {"strides": value.stride(), "storage_offset": value.storage_offset()}
        # The only way to make a tensor that holds another tensor; torch's own subclasses use it too.
        made = torch.Tensor._make_wrapper_subclass(cls, value.shape, dtype=value.dtype, device=DEVICE, **layout)
        made.value = value
        return made

    is_cuda = property(lambda self: True)
    is_sparse = property(lambda self: self.value.is_sparse)

    def tolist(self) -> Any:
        LOG.wait("tolist")
        return self.value.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class PaperGPU(TorchDispatchMode):
    """While this mode is active, tensors can be made on and copied to device="paper"."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    name = str(func).split(".")[1]
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    here = [isinstance(x, OnPaper) for x in tensors]
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"]).type
    is_copy = name in ("copy_", "_to_copy")
    mixed = any(here) and not all(h or x.dim() == 0 for h, x in zip(here, tensors, strict=True))
    assert is_copy or not mixed, f"{func} mixes devices"
    _record(func, name, tensors, here, device, is_copy and bool(kwargs.get("non_blocking")))
    values = tree_map(lambda x: x.value if isinstance(x, OnPaper) else x, (args, kwargs))
    if device is not None:
        values[1]["device"] = torch.device("cpu")
    made = func(*values[0], **values[1])
    if name in IN_PLACE_VIEWS and any(here):
        with no_dispatch():
            func(*args, **kwargs)
        return args[0]
    stays = any(here) and device != "cpu" and not (name == "copy_" and not here[0])
    if not (device == "paper" or stays):
        return made
    known = {id(x.value): x for x in tensors if isinstance(x, OnPaper)}
    return tree_map(lambda x: known[id(x)] if id(x) in known else _wrapped(x), made)


def _wrapped(made: Any) -> Any:
    return OnPaper(made) if type(made) is Tensor else made


def _record(func: Any, name: str, tensors: list[Tensor], here: list[bool], device: str | None, in_turn: bool) -> None:
    comes_back = any(here) and (device == "cpu" or (name == "copy_" and not here[0]))
    is_sent = (
        not all(here) and (device == "paper" or (name == "copy_" and here[0] and tensors[1].dim() > 0)) and tensors
    )
    by_mask = name.startswith("index") and any(x.dtype is torch.bool for x in tensors[1:])
    if (any(here) and (name in WAITING or comes_back or by_mask)) or (is_sent and not in_turn):
        LOG.wait(name)
    makes_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
    if (any(here) or device == "paper") and not makes_view and "empty" not in name and "sparse" not in name:
        LOG.launch()


def _check_that_waits_are_recorded() -> None:
    """Check, inside a PaperGPU, which operations are recorded as waits, and that mixing devices is an error."""
    there = torch.ones(3, device=DEVICE)
    waiting: dict[str, Callable[[], Any]] = {
        "_local_scalar_dense": lambda: float(there.sum()), "index": lambda: there[there > 0], "tolist": there.tolist,
        "nonzero": lambda: torch.nonzero(there), "_to_copy": lambda: torch.ones(3).to(DEVICE), "copy_": lambda:
        torch.ones(3).copy_(there), "_unique2": lambda: torch.unique(there),
    }  # fmt: skip
    for name, run in waiting.items():
        LOG.waits.clear()
        run()
        assert sum(LOG.waits.values()) == 1 and f"by {name}" in next(iter(LOG.waits)), (name, LOG.waits)
    LOG.waits.clear()
    torch.ones(3).to(DEVICE, non_blocking=True).add_(there).mul_(torch.tensor(2.0)).view(1, 3).sum()
    assert not LOG.waits
    try:
        there + torch.ones(3)
    except AssertionError:
        return
    raise AssertionError("devices were mixed and no error was raised")


@contextmanager
def on_paper() -> Iterator[None]:
    """Let tensors live on device="paper", and let the interpreted kernels take such tensors."""
    modules = (triton_kernels, triton_optimizers, triton_softmax)
    real = [(module, name, getattr(module, name)) for module in modules for name in KERNELS if hasattr(module, name)]
    for module, name, kernel in real:
        setattr(module, name, partial(_launched, kernel))
    # Without this switch torch.tensor(..., device=) would not be dispatched; torch has no public one.
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with PaperGPU(), gpu.using("kernels"):
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
        for module, name, kernel in real:
            setattr(module, name, kernel)


def _launched(kernel: Callable[..., Any], *args: Any) -> Any:
    assert all(isinstance(x, OnPaper) for x in args if isinstance(x, Tensor)), kernel.__name__
    LOG.launch()
    return _wrapped(kernel(*(x.value if isinstance(x, OnPaper) else x for x in args)))


@contextmanager
def recorded_results(module: BiLMModule) -> Iterator[None]:
    """Record, for each result that the CPU reads, its step and the step in which it is read."""
    read = _Pending.read

    def noted(pending: _Pending) -> StepResult:
        LOG.results.append((pending.step, module.state.step))
        return read(pending)

    _Pending.read = noted  # type: ignore[method-assign]
    try:
        yield
    finally:
        _Pending.read = read  # type: ignore[method-assign]


def module_of(config: PretrainConfig, bilm: LanguageModel) -> BiLMModule:
    """Return a module that needs no Trainer: with one process, Lightning would only call backward."""
    module = BiLMModule(config, bilm, TrainingState(STEPS, None, [None]))
    optimizer = module.configure_optimizers()
    module.optimizers = lambda use_pl_optimizer: optimizer  # type: ignore[method-assign, assignment]
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign, assignment]
    return module


def train(module: BiLMModule, windows: list[StepInputs], device: torch.device) -> list[float]:
    """Train one step a window; return the losses."""
    module.on_fit_start()
    losses = []
    for number, window in enumerate(windows):
        LOG.launches = LOG.recorded = 0
        module.training_step(module.transfer_batch_to_device(window, device, 0), number)
        assert module.ended is not None
        losses += [result.loss for result in module.ended.results]
    return losses


def report(dataset: Path, settings: list[str]) -> dict[str, Any]:
    config = load(PretrainConfig, [f"data.path={dataset}", "optimizer.clip_norm=10", *settings])
    resolve_auto(config, "cuda", STEPS)
    size, windows = batches(dataset, config)
    prepare = Preparation(config, size)
    inputs = [prepare([batch]) for batch in windows]
    torch.manual_seed(1)
    bilm = LanguageModel(config.model, size)
    if config.softmax.affixes:
        bilm.softmax.share_rows(open_dataset(str(dataset)).lexicon.words(0, size))
    in_float32 = replace(config, train=replace(config.train, precision="32-true"))
    on_cpu = module_of(in_float32, copy.deepcopy(bilm))
    with gpu.using("plain"):
        expected = train(on_cpu, inputs, torch.device("cpu"))
    with on_paper():
        module = module_of(config, bilm.to(DEVICE))
        with recorded_results(module):
            LOG.waits.clear()
            LOG.results.clear()
            losses = train(module, inputs, DEVICE)
    worst = max(
        float((ours.value - theirs).detach().norm() / theirs.detach().norm().clamp(min=1e-3))
        for ours, theirs in zip(bilm.parameters(), on_cpu.bilm.parameters(), strict=True)  # type: ignore[misc]
    )
    return {
        "losses": losses, "expected": expected, "worst_weight": worst, "waits": LOG.waits, "results": LOG.results,
        "launches": LOG.launches, "recorded": LOG.recorded,
    }  # fmt: skip


if __name__ == "__main__":
    with on_paper():
        _check_that_waits_are_recorded()
    for settings in sys.argv[2:]:
        print(json.dumps(report(Path(sys.argv[1]), json.loads(settings))))
