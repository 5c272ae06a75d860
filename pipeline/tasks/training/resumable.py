"""A training in a run folder, which can be killed at any step and resumed: what supervised trainings have in common.

A step's examples follow from its number (order.py), its dropout from its number and rank (module.py); last.ckpt holds
the rest. So a resumed training equals an uninterrupted one.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from data_prep.dataset.files import sha256_of
from data_prep.dataset.locations import local_path
from pipeline.config.schema import RunConfig, WandbConfig, to_dict
from pipeline.config.task_networks import TaskTraining
from pipeline.config.terminal import print_text
from pipeline.model.backend.device import choose_device
from pipeline.tasks.networks.sequences import Batch
from pipeline.tasks.training.callbacks import LAST, EvaluateAndSave, ShowProgress
from pipeline.tasks.training.loader import Steps, by_length, gather, training_loader
from pipeline.tasks.training.module import TaskModule
from pipeline.tasks.training.order import TrainingOrder
from pipeline.tasks.training.result import Scores, TaskResult
from pipeline.tasks.training.settings import settings_of_steps
from pipeline.tasks.training.state import TaskState, load_state
from pipeline.train.cluster.torchrun_env import require_torchrun_shape
from pipeline.train.fast_path.callback import FastPath
from pipeline.train.run_dir.lock import claim
from pipeline.train.run_dir.tracking import Tracker
from pipeline.train.step.collectives import leave
from pipeline.train.trainer import build_task_trainer, end_with_launcher, global_rank, launching_ranks, set_threads


class StopRequested(Exception):
    """A signal came before the first step; the message is its name."""


class ResumableTraining(ABC):
    """Train until early stopping, the last epoch or a signal, and keep the network that scores best on dev.

    name: shown, and part of the run's identity. main: the score that early stopping watches; higher is better.
    sums_loss: the network's loss is a sum over the batch, not a mean. config: all settings. files: read by the run.
    """

    def __init__(
        self,
        name: str,
        main: str,
        sums_loss: bool,
        config: Any,
        run: RunConfig,
        training: TaskTraining,
        wandb: WandbConfig,
        files: Sequence[str],
    ) -> None:
        self.name, self.main, self._sums_loss = name, main, sums_loss
        self.settings, self.training, self._run, self._wandb, self._files = config, training, run, wandb, files
        require_torchrun_shape(training.nodes, training.devices, "training")
        self._device = choose_device(training.accelerator, training.devices)
        self.run_dir = local_path(run.dir, "run.dir")
        set_threads(training)
        self.rank, self.ranks = global_rank(training), training.devices * training.nodes

    @property
    @abstractmethod
    def examples(self) -> Sequence[Any]:
        """Return the training examples."""

    @abstractmethod
    def make_batch(self, examples: Sequence[Any]) -> Batch:
        """Turn examples into tensors."""

    def cut(self, example: Any, step: int) -> Any:
        """Return what a step sees of a training example."""
        return example

    @abstractmethod
    def module(self, state: TaskState) -> TaskModule:
        """Return the network with its first weights."""

    @abstractmethod
    def score_dev(self, module: TaskModule) -> Scores:
        """Return the scores on dev, `main` among them, the same on every rank."""

    @abstractmethod
    def finish(self, module: TaskModule) -> TaskResult:
        """Write what is left of the training, and return its result. Rank 0 only."""

    def prepare(self) -> None:  # noqa: B027  # not every training has something to prepare
        """Do what takes long before the first step. Raises StopRequested."""

    def progress(self, total: int, evaluations: EvaluateAndSave) -> ShowProgress:
        return ShowProgress(self.name, total, self.main, evaluations)

    @cached_property
    def order(self) -> TrainingOrder:
        lengths = [sum(map(len, example.texts())) for example in self.examples]
        return TrainingOrder(lengths, self.training.batch_size, self._run.seed)

    @property
    def total_steps(self) -> int:
        return self.order.steps_an_epoch * self.training.max_epochs

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must stay the same at each start of the run: settings, and the content of files."""
        files = [sha256_of(local_path(file)) for file in self._files if file]
        return {"task": self.name, **settings_of_steps(self.settings), "files": files}

    def train(self) -> TaskResult:
        """Train; a training that was stopped or killed is resumed where its checkpoint is."""
        end_with_launcher()
        try:
            self.prepare()
        except StopRequested as stop:
            return self._unfinished(TaskState(), str(stop))
        if self.rank != 0:
            return self._train(None)
        with claim(self.run_dir):
            facts = {"task": self.name, **to_dict(self.settings)}
            return self._train(Tracker(self.run_dir, self._run.name, self._wandb, facts))

    def _train(self, tracker: Tracker | None) -> TaskResult:
        saved = load_state(self.run_dir / LAST, self.identity)
        module = self.module(TaskState() if saved is None else saved[0])
        if saved is not None:
            module.restore(saved[1])
        stopped_by = None if module.is_over(self.total_steps) else self._fit(module, tracker)
        is_finished = stopped_by is None and self.rank == 0
        result = self.finish(module) if is_finished else self._unfinished(module.state, stopped_by)
        if tracker is not None:
            parts = result.scores.items()
            tracker.summary({f"{part}/{name}": value for part, found in parts for name, value in found.items()})
            tracker.finish()
        return result

    def _unfinished(self, state: TaskState, stopped_by: str | None) -> TaskResult:
        """Return the result of a training that a signal stopped, and that of other ranks than 0."""
        return TaskResult(self.run_dir, self.name, self.main, state, {}, {}, stopped_by)

    def _fit(self, module: TaskModule, tracker: Tracker | None) -> str | None:
        """Return the signal that stopped the training, None at its end."""
        training, order, total = self.training, self.order, self.total_steps
        steps = Steps(
            self.examples, order, self.cut, self.make_batch, module.state.step, total, self.rank, self.ranks,
            self._sums_loss,
        )  # fmt: skip
        evaluate = EvaluateAndSave(
            self.run_dir,
            self.identity,
            self.score_dev,
            self.main,
            training.validate_every_steps or order.steps_an_epoch,
            total,
            tracker,
        )
        self._announce(module)
        path = FastPath(self._device, self.rank, training.devices)
        trainer = build_task_trainer(training, training.precision, [path, evaluate, self.progress(total, evaluate)])
        with path, launching_ranks():
            trainer.fit(module.train(), train_dataloaders=training_loader(steps, training.workers))
            leave()
        return evaluate.stopped_by

    def _announce(self, module: TaskModule) -> None:
        """Print what is trained, as `elmo pretrain` does: the first score may take minutes."""
        if self.rank != 0:
            return
        step, epoch = module.state.step, self.order.steps_an_epoch
        learning = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
        lines = [
            f"run      {self.run_dir}  ({f'resumed at step {step:,}' if step else 'new'})",
            f"data     {len(self.examples):,} training examples, {epoch:,} steps an epoch",
            f"model    {learning:,} parameters that learn",
            f"plan     {self.total_steps:,} steps, {self.training.max_epochs:,} epochs at most",
        ]
        print_text("\n".join(lines), sys.stderr)

    def predictions(self, module: TaskModule, examples: Sequence[Any]) -> list[Any]:
        """Return one prediction an example; each rank predicts its share."""
        mine = range(module.global_rank, len(examples), module.trainer.world_size)
        found: list[tuple[int, Any]] = []
        lengths = [sum(map(len, examples[number].texts())) for number in mine]
        for places in by_length(lengths, self.training.batch_size):
            numbers = [mine[place] for place in places]
            found += zip(numbers, module.predict(self.make_batch([examples[n] for n in numbers])), strict=True)
        by_number = dict(gather(found))
        return [by_number[number] for number in range(len(examples))]
