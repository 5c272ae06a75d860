"""The LightningModule: `training_step` is one whole step, from a batch of the loader to the updated weights."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor

from pipeline.config.schema import PretrainConfig
from pipeline.data.windows import Batch
from pipeline.model.backend.device import upload, uses_kernels
from pipeline.model.bilm import DropoutKey, States, Window, detach
from pipeline.model.language_model import LanguageModel
from pipeline.model.lstmp import LSTMP, LSTMPState
from pipeline.train.cluster.stop_requests import Request, StopRequests
from pipeline.train.step.collectives import broadcast_, exchange_timeout, new_group
from pipeline.train.step.finite_check import FiniteCheck, StepResult
from pipeline.train.step.freeze import Freeze
from pipeline.train.step.inputs import StepInputs
from pipeline.train.step.norms import StepNorms
from pipeline.train.step.optimizer import RowOptimizer, build_optimizer, clip_global_norm_, lr_factor
from pipeline.train.step.parameter_kinds import parameter_kinds
from pipeline.train.step.softmax_gradient import SoftmaxGradient
from pipeline.train.step.state import TrainingState


@dataclass(frozen=True)
class StepEnd:
    """All that callbacks may read of a step that has ended.

    step: steps done. results: of the steps whose results arrived in this step; on a GPU usually the step before. The
    result of a step that is logged or saved always arrives in that step. request: the highest request of any rank.
    """

    step: int
    results: list[StepResult]
    request: Request
    learning_rate: float


class BiLMModule(pl.LightningModule):
    """Train a biLM on `StepInputs`. A step is one window of all lanes, computed in `config.lane_groups` groups."""

    def __init__(
        self,
        config: PretrainConfig,
        bilm: LanguageModel,
        state: TrainingState,
        freeze: Freeze | None = None,
        stop_requests: StopRequests | None = None,
        norms: StepNorms | None = None,
    ) -> None:
        """norms: computed in some steps, on rank 0 only."""
        super().__init__()
        self.automatic_optimization = False
        self.config, self.bilm, self.state, self.frozen = config, bilm, state, freeze or Freeze()
        self.stop_requests, self.norms = stop_requests or StopRequests(), norms
        self.softmax_gradient = SoftmaxGradient(bilm.softmax)
        self.finite_check = FiniteCheck(state, config.train.max_bad_steps)
        self.optimizer_state: dict[str, Any] | None = None  # from a checkpoint, until the optimizer is built
        self.ended: StepEnd | None = None
        # DDP would all-reduce the whole table; SoftmaxGradient exchanges its touched rows instead. DDP has no other
        # way to leave parameters out.
        of_softmax = [name for name, _ in (*bilm.softmax.named_parameters(), *bilm.softmax.named_buffers())]
        self._ddp_params_and_buffers_to_ignore = [f"bilm.softmax.{name}" for name in of_softmax]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = build_optimizer(self.config.optimizer, parameter_kinds(self.bilm))
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def on_fit_start(self) -> None:
        for parameter in self.bilm.softmax.parameters():  # DDP broadcasts the others
            broadcast_(parameter.data)
        # Otherwise long sums, for example over 4 * 4096 gates, would accumulate in bf16.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        for layer in self.bilm.layers:
            cast(LSTMP, layer).one_window_at_a_time = True  # on a GPU: keep its buffers and replay its graphs
        train = self.config.train
        exchanged = torch.bfloat16 if train.exchanges_bfloat16 else torch.float32
        self.softmax_gradient.connect(new_group(exchange_timeout(train.start_seconds, train.hang_seconds)), exchanged)

    def training_step(self, inputs: StepInputs, number: int) -> None:
        """Do one optimizer step over all lane groups of this rank."""
        state, optimizer = self.state, cast(RowOptimizer, self.optimizers(use_pl_optimizer=False))
        assert inputs.step == state.step, f"inputs of step {inputs.step} in step {state.step}"
        if self.norms is not None:
            self.norms.watch_layers(state.step + 1)

        optimizer.zero_grad(set_to_none=True)
        report = upload(torch.tensor([0.0, float(self.stop_requests.poll())]), self.bilm.device)
        for group in range(len(inputs.groups)):
            loss = self._loss(group, inputs)  # encode, LSTM, softmax; keeps the LSTM state
            report[0] += loss.detach() / len(inputs.groups)
            is_last = group == len(inputs.groups) - 1
            if is_last:
                self.softmax_gradient.send_during_backward(report)
            with nullcontext() if is_last else self._without_exchange():
                # bilm-tf multiplies the loss by the window's length (training.py:709-712).
                self.manual_backward(loss * self.config.data.window / len(inputs.groups))
        reports = self.softmax_gradient.receive(report)  # of all ranks, which therefore get the same results

        self.frozen.drop_gradients(self.bilm, state.step)
        norm = clip_global_norm_(list(self.bilm.parameters()), self.config.optimizer.clip_norm)
        self.bilm.softmax.pass_gradient_on()
        good = self.finite_check.check(state.step, reports, norm, wait=self._must_know_before_update(state.step + 1))
        if good is False:
            optimizer.zero_grad(set_to_none=True)  # an update without gradients changes nothing
        state.lstm = finite_states(state.lstm, good)

        optimizer.schedule(lr_factor(self.config.optimizer, state.step, state.total_steps))
        if self.norms is not None:
            self.norms.before_update(state.step + 1, norm)
        with self._autocast():
            optimizer.step(good=good if isinstance(good, Tensor) else None)
        if self.norms is not None:
            self.norms.after_update()
        state.step += 1
        self._end_step(optimizer)

    def _loss(self, group: int, inputs: StepInputs) -> Tensor:
        """Return the mean loss () of a lane group, in nats, and keep its LSTM states after this window."""
        mine, candidates = inputs.groups[group], inputs.candidates
        batch = mine.batch
        key = DropoutKey(self.config.run.seed, batch.step, batch.first_lane)
        window = Window(batch.characters, batch.word_index, mine.lengths)
        with self._autocast():
            outputs, states = self.bilm(window, self._states_before(group, batch), key)
            self.state.lstm[group] = detach(states)
            y, softmax = outputs[-1], self.bilm.softmax
            if candidates is None or mine.places is None:
                return softmax.full_loss(y.flatten(0, 2).float(), batch.targets.flatten()).mean()
            targets = batch.targets.flatten(1)
            rows = softmax.touched_rows(mine.places)
            self.softmax_gradient.collect(rows, targets, inputs.check)
            return softmax.sampled_loss(y.flatten(1, 2), targets, candidates, rows).mean()

    def _autocast(self) -> AbstractContextManager[Any]:
        """Return a context in which matrix products are computed in the precision of the training."""
        is_low = self.config.train.precision == "bf16-mixed"
        return torch.autocast(self.bilm.device.type, torch.bfloat16, enabled=is_low)

    def _states_before(self, group: int, batch: Batch) -> States:
        """Return the LSTM states at the start of the window, zeros for lanes that start cold."""
        states = self.state.lstm[group]
        if states is None or batch.resets_state:
            return self.bilm.initial_states(batch.word_index.shape[2])
        if batch.cold is None:
            return states
        mask = batch.cold.unsqueeze(1)
        return [LSTMPState(state.h.masked_fill(mask, 0.0), state.c.masked_fill(mask, 0.0)) for state in states]

    def _without_exchange(self) -> AbstractContextManager[Any]:
        """Return a context in which DDP accumulates gradients on this rank and does not exchange them."""
        strategy = self.trainer.strategy
        return strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else nullcontext()

    def _must_know_before_update(self, step: int) -> bool:
        """Return whether the CPU needs the result before the update: for norms, and if the device has no kernels."""
        every = self.config.train.norms_every_steps
        return not uses_kernels(self.bilm.softmax.weight) or (every is not None and step % every == 0)

    def _end_step(self, optimizer: RowOptimizer) -> None:
        """Make the StepEnd; read this step's result first if the step is logged or saved."""
        config, step = self.config, self.state.step
        intervals = (config.train.log_every_steps, config.train.validate_every_steps, config.checkpoint.every_steps)
        if self.state.is_over or self.finite_check.request or any(step % every == 0 for every in intervals):
            self.finite_check.read()
        request = self.finite_check.request
        self.ended = StepEnd(step, self.finite_check.take_results(), request, optimizer.param_groups[0]["lr"])


def finite_states(groups: list[States | None], good: Tensor | bool) -> list[States | None]:
    """Return the LSTM states after a step; after a bad step, with zeros in place of values that are not finite.

    good: a bool, or () int32 on the device.
    """
    if good is True:
        return groups

    def finite(values: Tensor) -> Tensor:
        cleared = torch.nan_to_num(values, 0.0, 0.0, 0.0)
        return torch.where(good.bool(), values, cleared) if isinstance(good, Tensor) else cleared

    return [states and [LSTMPState(finite(h), finite(c)) for h, c in states] for states in groups]
