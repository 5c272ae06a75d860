"""What happens around the steps of a task's training: evaluation on dev, early stopping, saving, stop requests."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from safetensors.torch import save
from tqdm import tqdm

from data_prep.dataset.files import write_bytes
from pipeline.tasks.module import TaskModule
from pipeline.tasks.state import save_state
from pipeline.train.cluster import signals
from pipeline.train.run_dir.tracking import Tracker

BEST, LAST = "best.safetensors", "last.ckpt"


class EvaluateAndSave(pl.Callback):
    """Score dev every `every` steps, keep the best weights, stop early, and save what a resumed training needs.

    score: returns the scores on dev, `main` among them, the same on every rank. total: the number of the last step.
    """

    def __init__(
        self, run_dir: Path, identity: dict[str, Any], score: Callable[[TaskModule], dict[str, float]], main: str,
        every: int, total: int, tracker: Tracker | None,
    ) -> None:  # fmt: skip
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
        if state.step % self._every == 0 or state.step == self._total:
            self._evaluate(trainer, module)
            self._save(trainer, module)
        module.set_rate()
        signal = signals.received()
        if trainer.strategy.reduce_boolean_decision(signal is not None, all=False) and not state.is_over:
            self.stopped_by = signal.name if signal is not None else "a signal to another process"
            self._save(trainer, module)
        trainer.should_stop = state.is_over or self.stopped_by is not None

    def _evaluate(self, trainer: pl.Trainer, module: TaskModule) -> None:
        state, training = module.state, module.training_config
        with module.evaluating():
            scores = self._score(module)
            if state.record(scores[self._main]) and trainer.is_global_zero:
                write_bytes(self._run_dir / BEST, save(module.weights()))
        if training.schedule == "plateau" and state.waited_for_rate > training.plateau_patience:
            state.rate, state.waited_for_rate = state.rate * training.decay, 0
        is_patient = training.patience is None or state.waited < training.patience
        state.is_over = state.step >= self._total or not is_patient
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


class Progress(pl.Callback):
    """A bar of all steps in a terminal, with the latest score on dev; elsewhere a line an evaluation."""

    def __init__(self, task: str, total: int, main: str, evaluations: EvaluateAndSave) -> None:
        self._task, self._total, self._main, self._evaluations = task, total, main, evaluations
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and sys.stderr.isatty():
            first = task_module(pl_module).state.step
            self._bar = tqdm(initial=first, total=self._total, unit="step", desc=self._task, dynamic_ncols=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        state, latest = task_module(pl_module).state, self._evaluations.latest
        shown = ""
        if latest is not None:
            shown = f"dev {self._main} {latest:.2f}, best {state.best:.2f} at step {state.best_step:,}"
        if self._bar is not None:
            self._bar.set_postfix_str(shown, refresh=False)
            self._bar.update(1)
        elif trainer.is_global_zero and self._evaluations.latest_step == state.step:
            print(f"{self._task}: step {state.step:,} of at most {self._total:,}, {shown}", file=sys.stderr, flush=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()


def task_module(module: pl.LightningModule) -> TaskModule:
    assert isinstance(module, TaskModule)
    return module
