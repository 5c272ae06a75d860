"""Compare training steps with those of the plain path on the CPU in float64: losses, states, gradients and updates."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.characters import character_rows
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.data.windows import Batch
from pipeline.model.backend.device import uses_kernels, using
from pipeline.model.bilm import DropoutKey, Window, detach
from pipeline.model.language_model import LanguageModel
from pipeline.train.step.inputs import Preparation, StepInputs
from pipeline.train.step.optimizer import build_optimizer
from pipeline.train.step.parameter_kinds import parameter_kinds

TOLERANCE = {  # norm of the error over the norm of the exact value
    "float32": {"result": 1e-4, "gradient": 1e-3, "update": 2e-2},  # an update is small beside the rounding of a weight
    "bf16": {"result": 3e-2, "gradient": 3e-1, "update": 3e-1},  # rounding across a clip: gradient 0 or not
}
_STEPS = 4  # the first two windows compile and record a CUDA graph, the others replay it
_OPTIMIZERS = {"float32": "adam", "bf16": "adagrad"}  # each rule has a kernel, which does not depend on the precision


@contextmanager
def as_in_training() -> Iterator[None]:
    """Sum bf16 products on a GPU as training does inside the block; elsewhere the setting stays as it was."""
    products = torch.backends.cuda.matmul
    before, products.allow_bf16_reduced_precision_reduction = products.allow_bf16_reduced_precision_reduction, False
    try:
        yield
    finally:
        products.allow_bf16_reduced_precision_reduction = before


def difference(device: torch.device, mode: str, sizes: Sequence[str] = ()) -> str:
    """Return how a mode of pipeline.model.backend.device differs from the plain path, "" if they agree.

    The text is made up. sizes: key=value settings of a pretraining in place of the defaults, which fill several blocks
    of each kernel, the last of them in part.
    """
    defaults = ["model.filters=[[1,32],[2,32],[3,64]]", "model.lstm_dim=1040", "model.projection_dim=64"]
    defaults += ["data.lanes=8", "data.window=6", "data.vocab_size=5000", "softmax.num_samples=512"]
    for precision, optimizer in _OPTIMIZERS.items():
        config = load(PretrainConfig, [*defaults, *sizes, f"optimizer.name={optimizer}"])
        steps = made_up_steps(config)
        with torch.random.fork_rng(devices=[]):  # the run's own random numbers stay as they are
            torch.manual_seed(0)
            config = clipped(config, config.data.vocab_size, steps)
            bilm = LanguageModel(config.model, config.data.vocab_size)
        with using("plain"):
            exact = results_of(config, copy.deepcopy(bilm).double(), steps, "float64")
        with using(mode), as_in_training():
            found = results_of(config, bilm.to(device), steps, precision)
        for kind, bound in TOLERANCE[precision].items():
            error, name = worst(found, exact, kind)
            if not error <= bound:
                return f"in {precision} the {name} is off by {error:.1e} of its norm, more than {bound:.0e}"
    return ""


def made_up_steps(config: PretrainConfig) -> list[StepInputs]:
    """Return the inputs of consecutive steps, whose words are random letters; each has another number of words."""
    random, size = np.random.default_rng(0), config.data.vocab_size
    prepare = Preparation(config, size)
    offsets = np.concatenate([[0, 0, 0], random.integers(1, 12, size - 2).cumsum()])  # the two bounds have no letters
    utf8 = random.integers(97, 123, offsets[-1]).astype(np.uint8)
    shape, steps = (2, config.data.window, config.data.lanes), []
    for number in range(_STEPS):
        ids, targets = random.integers(0, size, shape), random.integers(0, size, shape)
        unique, index = np.unique(ids, return_inverse=True)
        characters = torch.from_numpy(character_rows(utf8, offsets, unique, config.model.max_characters))
        word_index = torch.from_numpy(index.reshape(shape).astype(np.int32))
        steps.append(prepare([Batch(number, 0, number == 0, characters, word_index, torch.from_numpy(targets))]))
    return steps


def results_of(
    config: PretrainConfig, bilm: LanguageModel, steps: Sequence[StepInputs], precision: str
) -> dict[str, Tensor]:
    """Return losses of consecutive steps, the states after them, and the last step's gradients and updates.

    Nothing is exchanged with other ranks, which may have no reason to compute this.
    """
    for layer in bilm.layers:
        layer.one_window_at_a_time = True  # type: ignore[assignment]
    optimizer, softmax = build_optimizer(config.optimizer, parameter_kinds(bilm)), bilm.softmax
    states, found = bilm.initial_states(config.data.lanes), {}
    autocast = torch.autocast(bilm.device.type, torch.bfloat16, enabled=precision == "bf16")
    for inputs in (step.to(bilm.device) for step in steps):
        (group,), batch = inputs.groups, inputs.groups[0].batch
        assert inputs.candidates is not None and group.places is not None
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            window = Window(batch.characters, batch.word_index, group.lengths)
            outputs, after = bilm(window, states, DropoutKey(0, inputs.step, 0))
            states, y, targets = detach(after), outputs[-1], batch.targets.flatten(1)
            rows = softmax.touched_rows(group.places)
            loss = softmax.sampled_loss(y.flatten(1, 2), targets, inputs.candidates, rows).mean()
        (loss * config.data.window).backward()
        for table, part in ((softmax.weight, rows.weight), (softmax.bias, rows.bias)):
            assert part.grad is not None
            ids = rows.ids.unsqueeze(0)
            table.grad = torch.sparse_coo_tensor(ids, part.grad, table.shape, is_coalesced=True, check_invariants=False)
        softmax.pass_gradient_on()
        found[f"result loss {inputs.step}"] = loss.detach()
    for depth, state in enumerate(states):
        found |= {f"result h {depth}": state.h, f"result c {depth}": state.c}
    with torch.no_grad():
        found["result full loss"] = softmax.full_loss(y.detach().flatten(0, 2), batch.targets.flatten())
    found |= {f"gradient {name}": p.grad.to_dense() for name, p in bilm.named_parameters() if p.grad is not None}
    before = {name: p.detach().clone() for name, p in bilm.named_parameters()}
    is_deferred = uses_kernels(softmax.weight)
    with autocast:
        optimizer.step(good=torch.ones((), dtype=torch.int32, device=bilm.device) if is_deferred else None)
    found |= {f"update {name}": p.detach() - before[name] for name, p in bilm.named_parameters()}
    return {name: value.double().cpu() for name, value in found.items()}


def clipped(config: PretrainConfig, vocabulary: int, steps: Sequence[StepInputs]) -> PretrainConfig:
    """Return the config with clips that act: at the 80 % quantile of the values of the layer with the smallest ones."""
    model = replace(config.model, cell_clip=None, proj_clip=None)
    with using("plain"):
        free = results_of(replace(config, model=model), LanguageModel(model, vocabulary), steps, "float32")
    bounds = {}
    for name in ("h", "c"):
        layers = (free[f"result {name} {depth}"].abs() for depth in range(model.num_layers))
        bounds[name] = min(values.quantile(0.8).item() for values in layers)
    return replace(config, model=replace(model, proj_clip=bounds["h"], cell_clip=bounds["c"]))


def worst(found: dict[str, Tensor], exact: dict[str, Tensor], kind: str) -> tuple[float, str]:
    """Return the largest relative error among the tensors of a kind, and the tensor's name."""
    assert found.keys() == exact.keys()
    errors = []
    for name in (name for name in exact if name.startswith(kind)):
        error = ((found[name] - exact[name]).norm() / exact[name].norm().clamp(min=1e-12)).item()
        errors.append((error if error == error else float("inf"), name))
    return max(errors)
