"""What happens around the steps of a task's training: evaluation on dev, early stopping, saving, stop requests."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from safetensors.torch import save

from data_prep.dataset.files import write_bytes
from data_prep.progress import Progress
from pipeline.config.schema import ConfigError
from pipeline.tasks.training.module import TaskModule
from pipeline.tasks.training.state import TaskState, save_state
from pipeline.train.cluster import signals
from pipeline.train.run_dir.tracking import Tracker

BEST, LAST = "best.safetensors", "last.ckpt"


class EvaluateAndSave(pl.Callback):
    """Score dev every `every` steps, keep the best weights, stop early, and save what a resumed training needs.

    score: returns the scores on dev, `main` among them, the same on every rank. total: the number of the last step.
    """

    def __init__(
        self,
        run_dir: Path,
        identity: dict[str, Any],
        score: Callable[[TaskModule], dict[str, float]],
        main: str,
        every: int,
        total: int,
        tracker: Tracker | None,
    ) -> None:
        self._run_dir, self._identity, self._score, self._main = run_dir, identity, score, main
        self._every, self._total, self._tracker = every, total, tracker
        self.stopped_by: str | None = None
        self.latest: float | None = None  # score on dev, at the step of `latest_step`
        self.latest_step = -1
        self._losses: list[float] = []  # since the last evaluation
        self._since = time.monotonic()  # up to here, time is counted in the module's state

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        task_module(pl_module).set_rate()
        self._since = time.monotonic()
        signals.release()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module = task_module(pl_module)
        state = module.state
        self._losses.append(float(outputs["loss"]))
        is_due = state.step % self._every == 0 or state.step == self._total
        self._check_finite(trainer, module, is_due)
        if is_due:
            self._evaluate(trainer, module)
            self._save(trainer, module)
        module.set_rate()
        signal, is_over = signals.received(), module.is_over(self._total)
        if trainer.strategy.reduce_boolean_decision(signal is not None, all=False) and not is_over:
            self.stopped_by = signal.name if signal is not None else "a signal to another process"
            self._save(trainer, module)
        trainer.should_stop = is_over or self.stopped_by is not None

    def _check_finite(self, trainer: pl.Trainer, module: TaskModule, are_weights_checked: bool) -> None:
        """Raise ConfigError on all ranks if the loss or a weight of one of them is no finite number."""
        is_finite = math.isfinite(self._losses[-1]) and (not are_weights_checked or module.is_finite())
        if trainer.strategy.reduce_boolean_decision(not is_finite, all=False):
            raise ConfigError(
                f"the training diverged: the loss or a weight is no finite number at step {module.state.step:,}, with "
                f"training.learning_rate={module.training_config.learning_rate:g}: give a lower one, or "
                f"training.clip_norm=1, and another run.dir; {self._run_dir} keeps what was saved before"
            )

    def _evaluate(self, trainer: pl.Trainer, module: TaskModule) -> None:
        state, training = module.state, module.training_config
        with module.evaluating():
            scores = self._score(module)
            if state.record(scores[self._main]) and trainer.is_global_zero:
                write_bytes(self._run_dir / BEST, save(module.weights()))
        if training.schedule == "plateau" and state.waited_for_rate > training.plateau_patience:
            state.rate, state.waited_for_rate = state.rate * training.decay, 0
        self.latest, self.latest_step = scores[self._main], state.step
        if self._tracker is not None:
            dev = {f"dev/{name}": value for name, value in scores.items()}
            train = {"train/loss": sum(self._losses) / len(self._losses), "train/learning_rate": module.learning_rate}
            self._tracker.log({**train, **dev, **module.mix_metrics()}, state.step)
        self._losses.clear()

    def _save(self, trainer: pl.Trainer, module: TaskModule) -> None:
        now = time.monotonic()
        module.state.seconds, self._since = module.state.seconds + now - self._since, now
        if trainer.is_global_zero:
            save_state(self._run_dir / LAST, module.state, self._identity, module.content())


class ShowProgress(pl.Callback):
    """Show steps and the latest score on dev: a bar in a terminal, elsewhere a line an evaluation."""

    def __init__(self, task: str, total: int, main: str, evaluations: EvaluateAndSave) -> None:
        self._task, self._total, self._main, self._evaluations = task, total, main, evaluations

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.module = task_module(pl_module)
        self._progress = Progress(self._task, self._total, trainer.is_global_zero, "step", lambda *_: self._shown())
        self._progress.start_at(self.module.state.step)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = self.module.state.step
        self._progress.update(step, is_line_due=self._evaluations.latest_step == step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._progress.close()

    def _shown(self) -> str:
        latest = self._evaluations.latest
        return "dev not scored yet" if latest is None else self.shown(self.module.state, latest)

    def shown(self, state: TaskState, latest: float) -> str:
        """Return the text beside the steps. latest: the last score on dev."""
        return f"dev {self._main} {latest:.2f}, best {state.best:.2f} at step {state.best_step:,}"


def task_module(module: pl.LightningModule) -> TaskModule:
    assert isinstance(module, TaskModule)
    return module
