"""The LightningModule: one window in, one loss out; states and gradients kept the way the run's promises need."""

import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from pipeline.config import PretrainConfig
from pipeline.model.bilm import BiLM, DropoutKey, States, Window, detach
from pipeline.model.gpu import upload, uses_kernels
from pipeline.model.lstmp import LSTMP, LSTMPState
from pipeline.train.collectives import broadcast_, new_group, world_size
from pipeline.train.freeze import Freeze
from pipeline.train.norms import StepNorms
from pipeline.train.optimizer import RowOptimizer, build_optimizer, clip_global_norm_, lr_factor
from pipeline.train.outcome import Failed
from pipeline.train.rows import RowGradients
from pipeline.train.step_inputs import StepInputs
from pipeline.train.switches import as_votes, most_asked
from pipeline.train.verdict import Verdict


class Diverged(Failed):
    """Too many steps in a row had a loss or gradient that was not finite."""


class BiLMModule(pl.LightningModule):
    """Trains a BiLM on `StepInputs`: a step is one window of all lanes, computed in `config.lane_groups` groups."""

    def __init__(self, config: PretrainConfig, bilm: BiLM, total_steps: int, freeze: Freeze | None = None) -> None:
        super().__init__()
        self.config, self.bilm, self.frozen = config, bilm, freeze or Freeze()
        self.total_steps, self.step = total_steps, 0
        self.validations: list[tuple[int, float]] = []  # step and held-out perplexity, of each that was due
        self.states: list[States | None] = [None] * config.lane_groups
        self.optimizer_state: dict[str, Any] | None = None
        self.rows = RowGradients(bilm.softmax)
        self._step_loss: Tensor | None = None  # of the lane groups so far
        self._report: Tensor | None = None
        self.asked: Callable[[], int] = lambda: 0  # what this rank is asked for (switches.py)
        self.heard = 0  # the most that any rank was asked for, of several, by the verdicts since it was obeyed
        self._verdict: Verdict | None = None  # of the last step, unless it is settled
        self._losses: list[float] = []
        self.loss = math.nan  # mean over ranks, lanes and directions of the last step, nats
        self.grad_norm = math.nan
        self.bad_steps = self.bad_steps_in_a_row = 0
        self.norms: StepNorms | None = None  # looks at the updates of some steps, on rank 0
        # DDP would all-reduce the whole table; RowGradients exchanges its touched rows instead.
        self._ddp_params_and_buffers_to_ignore = ["bilm.softmax.weight", "bilm.softmax.bias"]

    @property
    def is_over(self) -> bool:
        """All steps are done, or held-out perplexity has not fallen for so long that more are of no use."""
        return self.step >= self.total_steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        patience = self.config.train.patience
        if patience is None or not self.validations:
            return False
        perplexities = [perplexity for _, perplexity in self.validations]
        return len(perplexities) - 1 - perplexities.index(min(perplexities)) >= patience

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = build_optimizer(self.config.optimizer, self.bilm.parameters(), self.bilm.softmax.parameters())
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def on_fit_start(self) -> None:
        for parameter in self.bilm.softmax.parameters():  # of the others DDP sees to it
            broadcast_(parameter.data)
        # Or the parts of a long sum, as over 4 * 4096 gates, would be added up in bf16.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        for layer in self.bilm.layers:
            assert isinstance(layer, LSTMP)
            layer.one_window_at_a_time = True  # on a GPU its buffers stay, and its steps are replayed
        self.rows.connect(new_group(), torch.bfloat16 if self.config.train.exchanges_bfloat16 else torch.float32)

    def transfer_batch_to_device(self, batch: StepInputs, device: torch.device, dataloader_idx: int) -> StepInputs:
        return batch.to(device)

    def training_step(self, inputs: StepInputs, batch_idx: int) -> Tensor:
        """The loss of one lane group, times the window's length as in bilm-tf (training.py:709-712)."""
        batch = inputs.batch
        assert batch.step == self.step, f"batch of step {batch.step} in step {self.step}"
        group = batch_idx % self.config.lane_groups
        states = self.states[group]
        if states is None or batch.resets_state:
            states = self.bilm.initial_states(batch.index.shape[2])
        elif batch.cold is not None:
            mask = batch.cold.unsqueeze(1)
            states = [LSTMPState(state.h.masked_fill(mask, 0.0), state.c.masked_fill(mask, 0.0)) for state in states]
        key = DropoutKey(self.config.run.seed, batch.step, batch.first_lane)
        window = Window(batch.characters, batch.index, inputs.lengths)
        outputs, states = self.bilm(window, states, key)
        self.states[group] = detach(states)
        loss = self._loss(outputs[-1], inputs).mean()
        share = loss.detach() / self.config.lane_groups
        self._step_loss = share if self._step_loss is None else self._step_loss + share
        if group == self.config.lane_groups - 1:
            self._report, self._step_loss = self._report_of(self._step_loss), None
            if inputs.candidates is not None:
                self.rows.start_after_backward(self._report)
        return loss * self.config.data.window

    def _report_of(self, loss: Tensor) -> Tensor:
        """(n,): what ranks sum up beside their rows: the loss, and what each is asked for, so that none talks twice."""
        votes = [upload(as_votes(self.asked()), loss.device)] if world_size() > 1 else []
        return torch.cat([loss.unsqueeze(0), *votes])

    def _loss(self, y: Tensor, inputs: StepInputs) -> Tensor:
        if inputs.candidates is None or inputs.places is None:
            return self.bilm.softmax.full_loss(y.flatten(0, 2).float(), inputs.batch.targets.flatten())
        targets = inputs.batch.targets.flatten(1)
        rows = self.bilm.softmax.touched_rows(inputs.places)
        self.rows.collect(rows, targets, inputs.check)
        return self.bilm.softmax.sampled_loss(y.flatten(1, 2), targets, inputs.candidates, rows)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """All gradients of the step are here: exchange the rows, clip once, or drop the step if it is not finite."""
        assert isinstance(optimizer, RowOptimizer) and self._report is not None
        self.settle()
        # The loss travels with the rows, so that every rank comes to the same verdict.
        report, self._report = self.rows.finish(self._report), None
        self.frozen.drop_gradients(self.bilm, self.step)
        norm = clip_global_norm_(list(self.bilm.parameters()), self.config.optimizer.clip_norm)
        optimizer.good = self._judge(Verdict(self.step, report, norm), optimizer)
        optimizer.schedule(lr_factor(self.config.optimizer, self.step, self.total_steps))
        if self.norms is not None:
            self.norms.before_update(self.step + 1, self.grad_norm)

    def _judge(self, verdict: Verdict, optimizer: RowOptimizer) -> Tensor | None:
        """What the optimizer has to ask, if the CPU does not know yet whether the step is good."""
        self._verdict = verdict
        every = self.config.train.norms_every_steps
        is_looked_at = every is not None and (self.step + 1) % every == 0
        if uses_kernels(self.bilm.softmax.weight) and not is_looked_at:
            self.states = _where_finite(self.states, verdict.good)
            return verdict.good
        if not self.settle():
            optimizer.zero_grad(set_to_none=True)  # without gradients it changes nothing
            self.states = _where_finite(self.states, None)
        return None

    def settle(self) -> bool:
        """The last step's loss and gradient norm are known afterwards, and it is counted; False if it was dropped.

        Raises Diverged if so were too many in a row. Every rank has to call it at the same steps.
        """
        if self._verdict is None:
            return True
        (self.grad_norm, self.loss, votes), step = self._verdict.read(), self._verdict.step
        self._verdict, self.heard = None, max(self.heard, most_asked(votes))
        self._losses.append(self.loss)
        if math.isfinite(self.loss) and math.isfinite(self.grad_norm):
            self.bad_steps_in_a_row = 0
            return True
        self.bad_steps += 1
        self.bad_steps_in_a_row += 1
        if self.bad_steps_in_a_row >= self.config.train.max_bad_steps:
            raise Diverged(
                f"loss {self.loss} and gradient norm {self.grad_norm} at step {step}: "
                f"{self.bad_steps_in_a_row} steps in a row were not finite"
            )
        return False

    def take_losses(self) -> list[float]:
        """The losses of all steps since the last call."""
        self.settle()
        losses, self._losses = self._losses, []
        return losses

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.norms is not None:
            self.norms.after_update()
        self.step += 1  # a dropped step counts: its tokens are spent and its learning rate is passed


def _where_finite(groups: list[States | None], good: Tensor | None) -> list[States | None]:
    """States after a bad step: what is not finite starts cold. After a good one (good is 1) they stay as they are."""
    is_good = None if good is None else good.bool()

    def settled(values: Tensor) -> Tensor:
        finite = torch.nan_to_num(values, 0.0, 0.0, 0.0)
        return finite if is_good is None else torch.where(is_good, values, finite)

    return [states and [LSTMPState(settled(h), settled(c)) for h, c in states] for states in groups]
