"""Callbacks that run at the end of a step, in this order: heartbeat, metrics, validation, checkpoint, stop requests.

Validation comes before the checkpoint of the same step, so that a kill between the two loses neither.
"""

import json
import logging
import math
import sys
import time
import zlib
from dataclasses import asdict
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm

from pipeline.data.lanes import TrainLanes
from pipeline.model.backend.precision import rounding_of
from pipeline.train.cluster import signals
from pipeline.train.cluster.stop_requests import Request
from pipeline.train.cluster.watchdog import Watchdog
from pipeline.train.plan import Plan
from pipeline.train.run_dir.copies import Copies
from pipeline.train.run_dir.lock import Writer
from pipeline.train.run_dir.snapshot import take_snapshot
from pipeline.train.run_dir.tracking import Tracker
from pipeline.train.step.collectives import all_gather, require_same
from pipeline.train.step.finite_check import StepResult
from pipeline.train.step.module import BiLMModule, StepEnd
from pipeline.train.step.norms import StepNorms
from pipeline.train.validate import Perplexity, held_out_perplexity

log = logging.getLogger(__name__)
_LONG_PAUSES, _JUDGED_AFTER = 0.1, 1800  # share of the time, and seconds of training, from which a warning is worth it


class StepCallback(Callback):
    """Read the StepEnd of each step, and write nothing into the module."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, BiLMModule) and pl_module.ended is not None
        self.on_step_end(trainer, pl_module, pl_module.ended)

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule, end: StepEnd) -> None:
        raise NotImplementedError


class Heartbeat(StepCallback):
    """Notify the watchdog that a step has ended."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule, end: StepEnd) -> None:
        self._watchdog.beat()


class Metrics(StepCallback):
    """Log training metrics at an interval, and norms at theirs; rates are means over the interval.

    tracker: None but on rank 0.
    """

    def __init__(self, tracker: Tracker | None, lanes: TrainLanes) -> None:
        self._tracker, self._lanes = tracker, lanes
        self._waited = self._paused = self._began = self._since = self._last_end = 0.0
        self._has_warned = False
        self._results: list[StepResult] = []  # of the steps since the last log
        self.tokens_per_second = math.nan
        self.perplexity: float | None = None  # of the last interval; perplexity_kind names its kind
        self.perplexity_kind = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = self._since = self._last_end = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        self._waited += time.perf_counter() - self._last_end

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        self._last_end = time.perf_counter()

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule, end: StepEnd) -> None:
        self._results += end.results
        if end.step % module.config.train.log_every_steps == 0 or end.step == module.state.total_steps:
            self._log(module, end)
        if self._tracker is not None and module.norms is not None and module.norms.is_due(end.step):
            self._log_norms(self._tracker, module.norms, module, end.step)

    def _log_norms(self, tracker: Tracker, norms: StepNorms, module: BiLMModule, step: int) -> None:
        """Log norms by parameter group, and histograms of layers."""
        started = time.perf_counter()
        metrics, histograms = norms.take()
        tracker.log(metrics | {"train/tokens": step * module.config.data.tokens_per_step}, step)
        tracker.histograms(histograms, step)
        self.leave_out(time.perf_counter() - started)

    def _log(self, module: BiLMModule, end: StepEnd) -> None:
        now = time.perf_counter()
        seconds, steps, norm = now - self._since, len(self._results), self._results[-1].gradient_norm
        pause_share = self._paused / (now - self._began)
        tokens_per_step = module.config.data.tokens_per_step
        self.tokens_per_second = steps * tokens_per_step / seconds
        finite = [result.loss for result in self._results if math.isfinite(result.loss)]
        loss = sum(finite) / len(finite) if finite else None
        self.perplexity = None if loss is None else math.exp(min(loss, 700.0))
        is_sampled = module.config.softmax.kind == "sampled"
        self.perplexity_kind = "sampled" if is_sampled else "training"
        metrics = {
            "train/loss": loss,
            f"train/{'sampled_' if is_sampled else ''}perplexity": self.perplexity,
            "train/gradient_norm": norm if math.isfinite(norm) else None,
            "train/learning_rate": end.learning_rate,
            "train/bad_steps": module.state.bad_steps,
            "train/tokens": end.step * tokens_per_step,
            "train/epoch": end.step / self._lanes.windows_per_epoch,
            "speed/tokens_per_second": self.tokens_per_second,
            "speed/data_wait_share": self._waited / seconds,
            "speed/pause_share": pause_share,
            "speed/eta_hours": (module.state.total_steps - end.step) / steps * seconds / 3600 / (1 - pause_share),
            "memory/peak_gib": _peak_memory_bytes() / 2**30,
        }
        if self._tracker is not None:
            self._tracker.log(metrics, end.step)
            self._warn_of_pauses(pause_share, now - self._began)
        self._waited, self._since, self._results = 0.0, now, []

    def _warn_of_pauses(self, share: float, seconds: float) -> None:
        """On many GPUs a thousand steps may take seconds, and the checkpoint after them as long."""
        if share > _LONG_PAUSES and seconds > _JUDGED_AFTER and not self._has_warned:
            self._has_warned = True
            remedy = "raise train.validate_every_steps or checkpoint.every_steps, or limit train.validate_tokens"
            log.warning("validations and checkpoints took %.0f%% of the time so far: %s", 100 * share, remedy)

    def leave_out(self, seconds: float) -> None:
        """Exclude time spent on validation or saving from the training speed and from the wait for data."""
        self._paused += seconds
        self._since += seconds
        self._last_end += seconds


def _peak_memory_bytes() -> int:
    if torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # a system without it, as Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Validation(StepCallback):
    """Compute held-out perplexity by full softmax, at an interval and at the end."""

    def __init__(
        self, plan: Plan, tracker: Tracker | None, metrics: Metrics, watchdog: Watchdog, at_start: bool
    ) -> None:
        """at_start: also validate before the first step, for weights that were trained before."""
        self._windows, self._tracker, self._metrics = plan.validation_windows, tracker, metrics
        self._watchdog, self.at_start = watchdog, at_start
        self.last: tuple[int, Perplexity] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, BiLMModule)
        if self.at_start and not pl_module.state.validations:
            self._validate(trainer, pl_module)

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule, end: StepEnd) -> None:
        if end.step % module.config.train.validate_every_steps == 0 or module.state.is_over:
            self._validate(trainer, module)

    def _validate(self, trainer: pl.Trainer, module: BiLMModule) -> None:
        if self._windows is None:
            return
        started, state = time.perf_counter(), module.state
        ranks = trainer.global_rank, trainer.world_size
        with module.bilm.softmax.with_shared_rows_added():
            result = held_out_perplexity(
                module.bilm, self._windows, module.config.evaluate, module.device, *ranks, self._watchdog.beat
            )
        self.last = state.step, result
        if state.step % module.config.train.validate_every_steps == 0:  # else only the run's end is due
            state.validations.append((state.step, result.both if math.isfinite(result.both) else math.inf))
        if self._tracker is not None:
            values = {
                "val/perplexity": result.both,
                "val/perplexity_forward": result.forward,
                "val/perplexity_backward": result.backward,
                "val/tokens": result.tokens,
                "train/tokens": state.step * module.config.data.tokens_per_step,
            }
            self._tracker.log(values, state.step)
        if trainer.is_global_zero:
            ways = f"forward {result.forward:.2f}, backward {result.backward:.2f}"
            figures = f"held-out perplexity {result.both:.2f} ({ways}) over {result.tokens:,} tokens each way"
            tqdm.write(f"step {state.step:,}: {figures}", file=sys.stderr)
            if result.warning:
                tqdm.write(f"warning: {result.warning}", file=sys.stderr)
        self._metrics.leave_out(time.perf_counter() - started)


class Checkpointing(StepCallback):
    """Save at an interval, at the end, and each best step if a run may end early.

    A save that fails (a full disk) is logged, and training continues.
    """

    def __init__(
        self, plan: Plan, writer: Writer | None, tracker: Tracker | None, validation: Validation, metrics: Metrics,
        copies: Copies | None,
    ) -> None:  # fmt: skip
        """writer, tracker, copies: None but on rank 0. copies: None too if checkpoints are not mirrored."""
        self._plan, self._writer, self._tracker, self._validation = plan, writer, tracker, validation
        self._metrics, self._copies, self._vocabulary = metrics, copies, plan.vocabulary()
        self.saved_step = self._tried_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, BiLMModule)
        self.saved_step = self._tried_step = pl_module.state.step
        if self._validation.at_start:  # so that the source of the weights is not needed again
            self._tried_step = -1
            self.save(pl_module)

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule, end: StepEnd) -> None:
        if self._copies is not None:
            self._copies.start()
        due = end.step % module.config.checkpoint.every_steps == 0 or module.state.is_over
        if due or (module.config.train.patience is not None and self._is_best(module)):
            self.save(module)

    def _is_best(self, module: BiLMModule) -> bool:
        """Return whether this step was validated and has the lowest perplexity so far."""
        validations = module.state.validations
        return (
            bool(validations)
            and validations[-1] == min(validations, key=lambda v: v[1])
            and (validations[-1][0] == module.state.step)
        )

    def save(self, module: BiLMModule) -> None:
        """Write a checkpoint of this step, unless it exists or cannot be written."""
        step = module.state.step
        if self._tried_step == step:  # not saved_step, which only rank 0 knows: all ranks must agree
            return
        self._tried_step = step
        started = time.perf_counter()
        content = take_snapshot(module, self._plan.identity, self._vocabulary)
        if content is not None:
            assert self._writer is not None and self._tracker is not None  # on rank 0
            last, folder = self._validation.last, self._plan.checkpoints
            perplexity = last[1].both if last is not None and last[0] == step else None
            try:
                record = folder.save(content, perplexity, time.time(), self._writer.check)
            except OSError as error:  # a full or failing disk; any other error ends the run
                log.error("NO CHECKPOINT at step %s (%s): training continues; free some space", f"{step:,}", error)
                return
            path, aliases = str(folder.path(record)), ["latest", f"step-{step}"]
            self._tracker.reference("model", "checkpoint", path, asdict(record), aliases)
            if self._copies is not None:
                self._copies.saved()
        self.saved_step = step
        self._metrics.leave_out(time.perf_counter() - started)


class HandleRequests(StepCallback):
    """Stop all ranks at the end of the same step with a checkpoint, or only save; end a run that stops early."""

    def __init__(self, plan: Plan, checkpointing: Checkpointing) -> None:
        self._identity, self._checkpointing, self.stopped_by = plan.identity, checkpointing, ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        signals.release()  # the processes of all ranks are up

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, BiLMModule)
        settings = self._identity | {"train.precision": pl_module.config.train.precision}  # of `auto` on each machine
        identity = zlib.crc32(json.dumps(settings, sort_keys=True).encode())
        processor = zlib.crc32(rounding_of(pl_module.device).encode())
        mine = torch.tensor([[pl_module.state.step, identity, processor]], device=pl_module.device)
        steps, identities, processors = all_gather(mine).t().tolist()
        require_same(steps, "checkpoints")
        require_same(identities, "settings or data")
        require_same(processors, "processor instructions (they round differently)")

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule, end: StepEnd) -> None:
        if module.state.is_over:
            module.stop_requests.handled(end.request)  # the next start must not find the file `stop`
            trainer.should_stop = True
        if module.state.is_over or end.request is Request.NONE:
            return
        self._checkpointing.save(module)
        module.stop_requests.handled(end.request)
        if end.request.stops:
            self.stopped_by, trainer.should_stop = end.request.reason, True
