"""Check that a GPU computes what the CPU computes in float64: whole training steps, every mode and precision."""

import copy

import torch
from torch import Tensor

from benchmarks.gpu.steps import Draw, OursAt
from pipeline.config.schema import PretrainConfig
from pipeline.model.backend import device as gpu
from pipeline.model.language_model import LanguageModel
from pipeline.train.step.inputs import step_inputs

TOLERANCE = {  # norm of the error over the norm of the exact value
    "float32": {"result": 1e-4, "gradient": 1e-3, "update": 2e-2},  # an update is small beside the rounding of a weight
    "bf16": {"result": 3e-2, "gradient": 3e-1, "update": 3e-1},  # rounding across a clip: gradient 0 or not
}


def results_of(config: PretrainConfig, bilm: LanguageModel, draws: list[Draw], precision: str) -> dict[str, Tensor]:
    """Return losses of consecutive windows, the states after them, and the last window's gradients and updates."""
    way, found = OursAt(config, bilm), {}
    for number, draw in enumerate(draws):
        batch, candidates = draw
        inputs = step_inputs([batch], candidates).to(bilm.device)
        (group,) = inputs.groups
        assert inputs.candidates is not None
        way.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(bilm.device.type, torch.bfloat16, enabled=precision == "bf16"):
            y = way.run_layers(way.encode(group.batch, group.lengths), number, config.model.dropout)
            loss = way.loss(y, group.batch, inputs.candidates, group.places)
        (loss * config.data.window).backward()
        way.softmax_gradient.receive(way._report)
        found[f"result loss {number}"] = loss.detach()
    for depth, state in enumerate(way.states):
        found |= {f"result h {depth}": state.h, f"result c {depth}": state.c}
    with torch.no_grad():
        full = bilm.softmax.full_loss(y.detach().flatten(0, 2), group.batch.targets.flatten())
    found["result full loss"] = full
    found |= {f"gradient {name}": p.grad.to_dense() for name, p in bilm.named_parameters() if p.grad is not None}
    before = {name: p.detach().clone() for name, p in bilm.named_parameters()}
    way.optimizer.step()
    found |= {f"update {name}": p.detach() - before[name] for name, p in bilm.named_parameters()}
    return {name: value.double().cpu() for name, value in found.items()}


def check(config: PretrainConfig, vocabulary: int, draws: list[Draw], device: torch.device) -> list[dict[str, object]]:
    """Return a row for each precision and mode: the worst errors, and whether all are within TOLERANCE.

    Give at least four windows, so that recorded graphs are replayed. Clips are set so that they act on some values.
    """
    torch.manual_seed(0)
    bilm = LanguageModel(_clipped(config, vocabulary, draws).model, vocabulary)
    with gpu.using("plain"):
        exact = results_of(config, copy.deepcopy(bilm).double(), draws, "float64")
    for name, clip in (("h", config.model.proj_clip), ("c", config.model.cell_clip)):
        shares = [(exact[f"result {name} {d}"].abs() == clip).double().mean() for d in range(config.model.num_layers)]
        assert any(0 < share < 1 for share in shares), f"the clip of {name} acts on shares {shares} of its values"
    rows: list[dict[str, object]] = []
    last: dict[str, dict[str, Tensor]] = {}
    for precision, tolerance in TOLERANCE.items():
        for way in gpu.MODES if device.type == "cuda" else ("kernels", "plain"):
            with gpu.using(way):
                found = results_of(config, copy.deepcopy(bilm).to(device), draws, precision)
            worst = {kind: _worst(found, exact, kind) for kind in tolerance}
            last[way] = found
            right = all(worst[kind][0] <= bound for kind, bound in tolerance.items())
            rows.append({"precision": precision, "way": way, "right": right, "worst": worst})
        if "graphs" in last:
            same = all(torch.equal(last["graphs"][name], last["kernels"][name]) for name in exact)
            rows[-3]["bitwise_as_kernels"] = same
    return rows


def _clipped(config: PretrainConfig, vocabulary: int, draws: list[Draw]) -> PretrainConfig:
    """Return the config with clips at the 80 % quantile of the values of the layer with the smallest values."""
    config.model.cell_clip = config.model.proj_clip = None
    bounds: dict[str, float] = {}
    torch.manual_seed(0)
    free = results_of(config, LanguageModel(config.model, vocabulary), draws, "float32")
    for name in ("h", "c"):
        layers = (free[f"result {name} {depth}"].abs() for depth in range(config.model.num_layers))
        bounds[name] = min(values.quantile(0.8).item() for values in layers)
    config.model.proj_clip, config.model.cell_clip = bounds["h"], bounds["c"]
    return config


def _worst(found: dict[str, Tensor], exact: dict[str, Tensor], kind: str) -> tuple[float, str]:
    """Return the largest relative error among the tensors of a kind, and the tensor's name."""
    assert found.keys() == exact.keys()
    errors = []
    for name in (name for name in exact if name.startswith(kind)):
        error = ((found[name] - exact[name]).norm() / exact[name].norm().clamp(min=1e-12)).item()
        errors.append((error if error == error else float("inf"), name))
    return max(errors)
