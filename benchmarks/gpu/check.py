"""Check that a GPU computes what the CPU computes in float64: whole training steps, every mode and precision."""

import copy

import torch
from torch import Tensor

from benchmarks.gpu.steps import Draw
from benchmarks.measure.timed_step import Text
from pipeline.config.schema import PretrainConfig
from pipeline.model.backend import device as gpu
from pipeline.train.fast_path.agreement import TOLERANCE, as_in_training, clipped, results_of, worst
from pipeline.train.step.inputs import step_inputs


def check(config: PretrainConfig, text: Text, draws: list[Draw], device: torch.device) -> list[dict[str, object]]:
    """Return a row for each precision and mode: the worst errors, and whether all are within TOLERANCE.

    Give at least four windows, so that recorded graphs are replayed. Clips are set so that they act on some values.
    Updates by Muon in bfloat16 are shown and not judged: it stretches small singular values up to 84 times, and the
    rounding in them.
    """
    steps = [step_inputs([batch], candidates) for batch, candidates in draws]
    torch.manual_seed(0)
    config = clipped(config, text.vocabulary, steps)
    torch.manual_seed(0)
    bilm = text.network(config, torch.device("cpu"))
    with gpu.using("plain"):
        exact = results_of(config, copy.deepcopy(bilm).double(), steps, "float64")
    for name, clip in (("h", config.model.proj_clip), ("c", config.model.cell_clip)):
        shares = [(exact[f"result {name} {d}"].abs() == clip).double().mean() for d in range(config.model.num_layers)]
        assert any(0 < share < 1 for share in shares), f"the clip of {name} acts on shares {shares} of its values"
    rows: list[dict[str, object]] = []
    last: dict[str, dict[str, Tensor]] = {}
    for precision, tolerance in TOLERANCE.items():
        for way in gpu.MODES if device.type == "cuda" else ("kernels", "plain"):
            with gpu.using(way), as_in_training():
                found = results_of(config, copy.deepcopy(bilm).to(device), steps, precision)
            errors = {kind: worst(found, exact, kind) for kind in tolerance}
            last[way] = found
            is_judged = config.optimizer.name != "muon" or precision != "bf16"
            judged = {kind: bound for kind, bound in tolerance.items() if kind != "update" or is_judged}
            right = all(errors[kind][0] <= bound for kind, bound in judged.items())
            rows.append({"precision": precision, "way": way, "right": right, "worst": errors})
        if "graphs" in last:
            same = all(torch.equal(last["graphs"][name], last["kernels"][name]) for name in exact)
            rows[-3]["bitwise_as_kernels"] = same
    return rows
