"""Training steps on a GPU, by this project's code as training runs it and by plain PyTorch."""

import torch

from benchmarks.measure.plain import PlainBiLM
from benchmarks.measure.timed_step import Ours, Plain, Way
from pipeline.config.schema import PretrainConfig
from pipeline.data.windows import Batch
from pipeline.model.backend import device as gpu
from pipeline.model.language_model import LanguageModel
from pipeline.model.softmax import Candidates
from pipeline.train.step.finite_check import FiniteCheck
from pipeline.train.step.inputs import GroupInputs, StepInputs, step_inputs
from pipeline.train.step.optimizer import clip_global_norm_
from pipeline.train.step.state import TrainingState

Draw = tuple[Batch, Candidates]


class OursAt(Ours):
    """Our step as training runs it on a GPU: layers keep buffers, and the CPU reads a step's result one step later."""

    def __init__(self, config: PretrainConfig, bilm: LanguageModel) -> None:
        super().__init__(config, bilm)
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # as training does
        for layer in bilm.layers:
            layer.one_window_at_a_time = True  # type: ignore[assignment]
        self._finite_check = FiniteCheck(TrainingState(1, None, [None]), config.train.max_bad_steps)

    def update(self) -> None:
        reports = self.softmax_gradient.receive(self._report)
        norm = clip_global_norm_(list(self.bilm.parameters()), self.config.optimizer.clip_norm)
        is_deferred = gpu.uses_kernels(self.bilm.softmax.weight)
        self.bilm.softmax.pass_gradient_on()
        good = self._finite_check.check(0, reports, norm, wait=not is_deferred)
        self.optimizer.step(good=good if isinstance(good, torch.Tensor) else None)
        self.optimizer.zero_grad(set_to_none=True)
        self._finite_check.take_results()


def way_of(name: str, config: PretrainConfig, bilm: LanguageModel) -> Way:
    if name in gpu.MODES:
        return OursAt(config, bilm)
    plain = PlainBiLM(bilm).to(bilm.device)
    if name == "compiled loop":
        for cell in plain.cells:
            cell.compile(backend="inductor" if bilm.device.type == "cuda" else "eager")
    way = Plain(config, plain, name != "nn.LSTM")
    if way.clipped:  # give states to the first window too, for one compilation instead of two
        lanes, model = config.data.lanes, config.model
        shapes = ((lanes, model.projection_dim), (lanes, model.lstm_dim))
        way.states = [tuple(torch.zeros(s, device=bilm.device) for s in shapes) for _ in plain.cells]
    return way


def inputs_of(way: Way, draw: Draw, device: torch.device) -> StepInputs:
    """Return the inputs of a step, still on the CPU, as the loader makes them for a device."""
    batch, candidates = draw
    ours = isinstance(way, OursAt)
    plain = StepInputs(batch.step, [GroupInputs(batch, torch.empty(0))], torch.zeros(1), candidates)
    inputs = step_inputs([batch], candidates) if ours else plain
    return inputs.pin_memory() if device.type == "cuda" else inputs


def train_step(
    way: Way, config: PretrainConfig, inputs: StepInputs, number: int, device: torch.device, precision: str = "bf16"
) -> torch.Tensor:
    """Start a step and return its loss, without waiting for the GPU."""
    inputs = inputs.to(device)
    assert inputs.candidates is not None
    (group,) = inputs.groups
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    with autocast:
        y = way.run_layers(way.encode(group.batch, group.lengths).float(), number, config.model.dropout)
        loss = way.loss(y, group.batch, inputs.candidates, group.places)
    (loss * config.data.window).backward()
    with autocast:
        way.update()
    return loss.detach()
