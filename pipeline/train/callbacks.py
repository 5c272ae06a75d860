"""What happens at the end of a step, in this order: heartbeat, metrics, validation, checkpoint, switches.

Validation comes before the checkpoint of the same step, so that a kill in between loses neither.
"""

import json
import logging
import math
import resource
import sys
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from tqdm import tqdm

from pipeline import signals
from pipeline.data.lanes import TrainLanes
from pipeline.data.windows import EvaluationWindows
from pipeline.train.checkpoint import CheckpointFolder, Record
from pipeline.train.collectives import all_gather, require_same, world_size
from pipeline.train.module import BiLMModule
from pipeline.train.norms import StepNorms
from pipeline.train.run_folder import Writer
from pipeline.train.snapshot import take_snapshot
from pipeline.train.switches import Switches, is_to_save, is_to_stop, meaning
from pipeline.train.tracking import Tracker
from pipeline.train.validate import Perplexity, held_out_perplexity
from pipeline.train.watchdog import Watchdog

log = logging.getLogger(__name__)


class StepCallback(Callback):
    """Calls `on_step_end` once all lane groups of a step are done and the optimizer has stepped."""

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, BiLMModule)
        if (batch_idx + 1) % pl_module.config.lane_groups == 0:
            self.on_step_end(trainer, pl_module)

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule) -> None:
        raise NotImplementedError


class Heartbeat(StepCallback):
    """Tells the watchdog that a step has ended."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule) -> None:
        self._watchdog.beat()


class Metrics(StepCallback):
    """Logs training metrics at an interval, as means over it where they are rates; None where not rank 0."""

    def __init__(self, tracker: Tracker | None, lanes: TrainLanes) -> None:
        self._tracker, self._lanes = tracker, lanes
        self._waited = self._since = self._last_end = 0.0
        self.tokens_per_second = math.nan
        self.perplexity: float | None = None  # of the last interval; of its kind only
        self.perplexity_kind = ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = self._last_end = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        self._waited += time.perf_counter() - self._last_end

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        self._last_end = time.perf_counter()

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule) -> None:
        every = module.config.train.log_every_steps
        if module.step % every == 0 or module.step == module.total_steps:
            self._log(module)

    def _log(self, module: BiLMModule) -> None:
        losses = module.take_losses()
        now = time.perf_counter()
        seconds, steps = now - self._since, len(losses)
        tokens_per_step = module.config.data.lanes * module.config.data.window
        self.tokens_per_second = steps * tokens_per_step / seconds
        finite = [loss for loss in losses if math.isfinite(loss)]
        loss = sum(finite) / len(finite) if finite else None
        self.perplexity = None if loss is None else math.exp(min(loss, 700.0))
        is_sampled = module.config.softmax.kind == "sampled"
        self.perplexity_kind = "sampled" if is_sampled else "training"
        metrics = {
            "train/loss": loss,
            f"train/{'sampled_' if is_sampled else ''}perplexity": self.perplexity,
            "train/gradient_norm": module.grad_norm if math.isfinite(module.grad_norm) else None,
            "train/learning_rate": module.trainer.optimizers[0].param_groups[0]["lr"],
            "train/bad_steps": module.bad_steps,
            "train/tokens": module.step * tokens_per_step,
            "train/epoch": module.step / self._lanes.windows_per_epoch,
            "speed/tokens_per_second": self.tokens_per_second,
            "speed/data_wait_share": self._waited / seconds,
            "speed/eta_hours": (module.total_steps - module.step) / steps * seconds / 3600,
            "memory/peak_gib": _peak_memory_bytes() / 2**30,
        }
        if self._tracker is not None:
            self._tracker.log(metrics, module.step)
        self._waited, self._since = 0.0, now

    def leave_out(self, seconds: float) -> None:
        """Time that was not training (validation, saving) counts neither against its speed nor as waiting for data."""
        self._since += seconds
        self._last_end += seconds


class NormsLog(StepCallback):
    """Logs norms by parameter group at their interval, with histograms of gates and layers. On rank 0 only."""

    def __init__(self, norms: StepNorms, tracker: Tracker, metrics: Metrics) -> None:
        self._norms, self._tracker, self._metrics = norms, tracker, metrics

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        assert isinstance(pl_module, BiLMModule)
        if i % pl_module.config.lane_groups == 0 and self._norms.is_due(pl_module.step + 1):
            self._norms.watch_layers()

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule) -> None:
        if not self._norms.is_due(module.step):
            return
        started = time.perf_counter()
        metrics, histograms = self._norms.take()
        tokens = module.step * module.config.data.lanes * module.config.data.window
        self._tracker.log(metrics | {"train/tokens": tokens}, module.step)
        self._tracker.histograms(histograms, module.step)
        self._metrics.leave_out(time.perf_counter() - started)


def _peak_memory_bytes() -> int:
    if torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class Validation(StepCallback):
    """Held-out perplexity by full softmax, at an interval and at the end."""

    def __init__(
        self, windows: EvaluationWindows | None, tracker: Tracker | None, metrics: Metrics, watchdog: Watchdog,
        at_start: bool = False,
    ) -> None:  # fmt: skip
        """at_start: also before the first step, as weights that were trained before have something to show."""
        self._windows, self._tracker, self._metrics, self._watchdog = windows, tracker, metrics, watchdog
        self._at_start = at_start
        self.last: tuple[int, Perplexity] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, BiLMModule)
        if self._at_start and not pl_module.validations:
            self._validate(trainer, pl_module)

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule) -> None:
        if module.step % module.config.train.validate_every_steps == 0 or module.is_over:
            self._validate(trainer, module)

    def _validate(self, trainer: pl.Trainer, module: BiLMModule) -> None:
        if self._windows is None:
            return
        started = time.perf_counter()
        result = held_out_perplexity(
            module.bilm, self._windows, module.config.evaluate, module.device, trainer.global_rank, trainer.world_size,
            self._watchdog.beat,
        )  # fmt: skip
        self.last = module.step, result
        if module.step % module.config.train.validate_every_steps == 0:  # not where a run ends that may be gone on with
            module.validations.append((module.step, result.both if math.isfinite(result.both) else math.inf))
        if self._tracker is not None:
            values = {"perplexity": result.both, "perplexity_forward": result.forward,
                      "perplexity_backward": result.backward, "tokens": result.tokens}  # fmt: skip
            tokens = module.step * module.config.data.lanes * module.config.data.window
            self._tracker.log({f"val/{k}": v for k, v in values.items()} | {"train/tokens": tokens}, module.step)
        if trainer.is_global_zero:
            tqdm.write(
                f"step {module.step}: held-out perplexity {result.both:.2f} (forward {result.forward:.2f}, "
                f"backward {result.backward:.2f}) over {result.tokens:,} tokens each way", file=sys.stderr
            )  # fmt: skip
            if result.warning:
                tqdm.write(f"warning: {result.warning}", file=sys.stderr)
        self._metrics.leave_out(time.perf_counter() - started)


class Checkpointing(StepCallback):
    """Saves at an interval, at the end, and the best if a run may end early. A save that fails (a full disk) is said
    aloud; the run goes on."""

    def __init__(
        self, folder: CheckpointFolder, identity: dict[str, Any], vocabulary: dict[str, Tensor],
        validation: Validation, metrics: Metrics, saved_step: int, writer: Writer | None,
        on_saved: Callable[[Record], None] = lambda record: None, at_start: bool = False,
    ) -> None:  # fmt: skip
        """at_start: also before the first step, so that where the weights came from is not needed again."""
        self._folder, self._identity, self._vocabulary = folder, identity, vocabulary
        self._validation, self._metrics, self._writer = validation, metrics, writer
        self._on_saved = on_saved
        self.saved_step, self._tried_step, self._at_start = saved_step, -1 if at_start else saved_step, at_start

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, BiLMModule)
        if self._at_start:
            self.save(pl_module)

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule) -> None:
        due = module.step % module.config.checkpoint.every_steps == 0 or module.is_over
        if due or (module.config.train.patience is not None and self._is_best(module)):
            self.save(module)

    def identity_checksum(self) -> int:
        return zlib.crc32(json.dumps(self._identity, sort_keys=True).encode())

    def _is_best(self, module: BiLMModule) -> bool:
        """Whether this step was validated, and better than all before."""
        validations = module.validations
        return (
            bool(validations)
            and validations[-1] == min(validations, key=lambda v: v[1])
            and (validations[-1][0] == module.step)
        )

    def save(self, module: BiLMModule) -> None:
        """A checkpoint of this step is there afterwards, unless it was already or cannot be written."""
        if self._tried_step == module.step:  # not saved_step: all ranks must agree, and only rank 0 knows that
            return
        self._tried_step = module.step
        started = time.perf_counter()
        content = take_snapshot(module, self._identity, self._vocabulary)
        if content is not None:
            assert self._writer is not None  # rank 0 has the folder
            last = self._validation.last
            perplexity = last[1].both if last is not None and last[0] == module.step else None
            try:
                record = self._folder.save(content, perplexity, time.time(), self._writer.check)
            except OSError as error:  # of a full or failing disk; any other error ends the run
                log.error("NO CHECKPOINT at step %d (%s): the run goes on; free some space", module.step, error)
                return
            self._on_saved(record)
        self.saved_step = module.step
        self._metrics.leave_out(time.perf_counter() - started)


class ObeySwitches(StepCallback):
    """A signal to any rank, or the file `stop`, stops all at the end of one step, with a checkpoint; `save` saves.

    A run that is over before its last step stops too."""

    def __init__(self, checkpointing: Checkpointing, switches: Switches) -> None:
        self._checkpointing, self._switches = checkpointing, switches
        self.stopped_by = ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        signals.release()  # the processes of all ranks are up

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, BiLMModule)
        pl_module.asked = self._switches.asked
        mine = torch.tensor([[pl_module.step, self._checkpointing.identity_checksum()]], device=pl_module.device)
        steps, identities = all_gather(mine).t().tolist()
        require_same(steps, "checkpoints")
        require_same(identities, "settings or data")

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule) -> None:
        asked = module.heard if world_size() > 1 else self._switches.asked()
        module.heard = 0
        if module.is_over:
            trainer.should_stop = True
        if not is_to_save(asked) or module.is_over:
            return
        self._checkpointing.save(module)
        self._switches.obeyed(asked)
        if is_to_stop(asked):
            self.stopped_by, trainer.should_stop = meaning(asked), True
