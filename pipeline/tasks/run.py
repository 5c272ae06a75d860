"""`elmo task`: train a task with or without a biLM, and keep the network that scores best on dev."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from data_prep.dataset.files import sha256_of
from data_prep.dataset.locations import local_path
from data_prep.dataset.remote import default_cache_dir
from pipeline.apply.load import load_trained
from pipeline.config.schema import require, to_dict
from pipeline.config.tasks import TaskConfig
from pipeline.model.backend.device import choose_device
from pipeline.model.elmo.pretrained import Elmo
from pipeline.tasks.examples.word_vectors import read_word_vectors
from pipeline.tasks.kinds import Kind, Scores, kind_of
from pipeline.tasks.layer_cache import LayerCache
from pipeline.tasks.networks.network import make_tables
from pipeline.tasks.networks.sequences import Batch, WordVectors
from pipeline.tasks.result import TaskResult
from pipeline.tasks.task import Task, build_network
from pipeline.tasks.training.callbacks import BEST, LAST, EvaluateAndSave, ShowProgress
from pipeline.tasks.training.loader import BilmLayers, KeptLayers, Steps, by_length, gather, training_loader
from pipeline.tasks.training.module import TaskModule
from pipeline.tasks.training.order import TrainingOrder
from pipeline.tasks.training.settings import settings_of_scores, settings_of_steps
from pipeline.tasks.training.state import TaskState, load_state
from pipeline.train.cluster import signals
from pipeline.train.run_dir.lock import claim
from pipeline.train.run_dir.tracking import Tracker
from pipeline.train.trainer import build_task_trainer, end_with_launcher, global_rank, launching_ranks, set_threads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskData:
    """Examples of a task. test: empty where there is none. left_out: training examples that are not used."""

    train: list[Any]
    dev: list[Any]
    test: list[Any]
    left_out: list[Any]

    @property
    def used(self) -> list[Any]:
        return [*self.train, *self.dev, *self.test]


def read_data(config: TaskConfig, kind: Kind) -> TaskData:
    """Read the files of a task. Raises DataError, ConfigError."""
    require(bool(config.train), "train= is missing: give one or more files of labelled examples")
    require(bool(config.dev), "dev= is missing: early stopping needs labelled examples that are not trained on")
    read_train = kind.read_train or (lambda path, config: kind.read(path, config, True))
    train = [example for path in config.train for example in read_train(path, config)]
    limit = config.training.max_tokens
    kept = [e for e in train if limit is None or max(map(len, e.texts())) <= limit]
    require(bool(kept), f"no example of train= has at most training.max_tokens={limit} words; raise it")
    dev = kind.read(config.dev, config, True)
    test = kind.read(config.test, config, True) if config.test else []
    used, left_out = subset(kept, config.training.share, config.training.subset_seed)
    return TaskData(used, dev, test, left_out)


def subset(examples: list[Any], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """Return a share of the examples, at least one, and all others. A smaller share is part of a larger one."""
    number = max(1, round(share * len(examples)))
    order = np.random.default_rng(seed).permutation(len(examples))
    chosen, others = (np.sort(part) for part in (order[:number], order[number:]))
    return [examples[number] for number in chosen], [examples[number] for number in others]


class TaskRun:
    """One training of a task, from its files to its model folder."""

    def __init__(self, task: str, config: TaskConfig) -> None:
        self.task, self.config, self.kind = task, config, kind_of(task)
        self.run_dir = local_path(config.run.dir, "run.dir")
        set_threads(config.training)
        self.data = read_data(config, self.kind)
        self.rank, self.ranks = global_rank(config.training), config.training.devices * config.training.nodes
        texts = [text for example in self.data.used for text in example.texts()]
        labels = self.kind.network.labels_of(self.data.train)
        vectors = _vectors(config, texts)
        self.tables, self._vectors = make_tables(config.words, texts, labels, vectors, config.run.seed)
        self.elmo = _elmo(config) if config.elmo.is_used else None

    @cached_property
    def order(self) -> TrainingOrder:
        lengths = [sum(map(len, example.texts())) for example in self.data.train]
        return TrainingOrder(lengths, self.config.training.batch_size, self.config.run.seed)

    @property
    def total_steps(self) -> int:
        return self.order.steps_an_epoch * self.config.training.max_epochs

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must stay the same at each start of the run: settings, and the content of files."""
        files = [*self.config.train, self.config.dev, self.config.test, self.config.vectors]
        return {
            "task": self.task,
            **settings_of_steps(self.config),
            "files": [sha256_of(local_path(file)) for file in files if file],
        }

    @cached_property
    def kept(self) -> KeptLayers | None:
        """The biLM's layers of all texts, kept on disk; None where the biLM reads every batch itself.

        Training examples that are left out are among them, so that runs on any share of the data use the same layers.
        """
        elmo = self.config.elmo
        if self.elmo is None or elmo.trained or elmo.keep == "no":
            return None
        folder = Path(elmo.cache_dir) if elmo.cache_dir else default_cache_dir() / "layers"
        texts = {text for example in [*self.data.used, *self.data.left_out] for text in example.texts()}
        device = choose_device(self.config.training.accelerator)
        cache = LayerCache.open_or_build(folder, elmo.checkpoint, texts, elmo.keep, device, _check_for_stop)
        if self.rank == 0:
            cache.verify()  # a training reads all of it in every epoch, so one reading more costs little
        return KeptLayers(cache)

    def make_batch(self, examples: Sequence[Any]) -> Batch:
        """Return a batch, with the biLM's layers where they are kept."""
        batch: Batch = self.kind.network.make_batch(examples, self.tables)
        return batch if self.kept is None else batch.with_elmo(self.kept)

    def module(self, state: TaskState) -> TaskModule:
        torch.manual_seed(self.config.run.seed)
        network = build_network(self.task, self.config, self.tables, self._vectors, self.elmo)
        reader = BilmLayers(self.elmo) if self.elmo is not None and self.kept is None else None
        return TaskModule(network, self.config.training, state, self.config.run.seed, reader)

    def train(self) -> TaskResult:
        """Train until early stopping, the last epoch or a signal; a resumed training goes on where it stopped."""
        end_with_launcher()
        try:
            self.kept  # noqa: B018  # computed before anything else, since it may take long
        except StopRequested as stop:
            return TaskResult(self.run_dir, self.task, self.kind.main, TaskState(), {}, {}, str(stop))
        if self.rank != 0:
            return self._train(None)
        with claim(self.run_dir):
            facts = {"task": self.task, **to_dict(self.config)}
            return self._train(Tracker(self.run_dir, self.config.run.name, self.config.wandb, facts))

    def _train(self, tracker: Tracker | None) -> TaskResult:
        saved = load_state(self.run_dir / LAST, self.identity)
        module = self.module(TaskState() if saved is None else saved[0])
        if saved is not None:
            module.restore(saved[1])
        is_over = module.state.is_over(self.total_steps, self.config.training.patience)
        stopped_by = None if is_over else self._fit(module, tracker)
        result = TaskResult(self.run_dir, self.task, self.kind.main, module.state, {}, {}, stopped_by)
        if stopped_by is None and self.rank == 0:
            result = self._finish(module)
        if tracker is not None:
            tracker.summary(
                {f"{name}/{metric}": value for name, found in result.scores.items() for metric, value in found.items()}
            )
            tracker.finish()
        return result

    def _fit(self, module: TaskModule, tracker: Tracker | None) -> str | None:
        """Return the signal that stopped the training, None at its end."""
        training, order, total = self.config.training, self.order, self.total_steps
        steps = Steps(
            self.data.train,
            order,
            self.make_batch,
            module.state.step,
            total,
            self.rank,
            self.ranks,
            self.kind.sums_loss,
        )
        evaluate = EvaluateAndSave(
            self.run_dir,
            self.identity,
            lambda m: self.score(m, self.data.dev),
            self.kind.main,
            training.validate_every_steps or order.steps_an_epoch,
            total,
            tracker,
        )
        progress = ShowProgress(self.task, total, self.kind.main, evaluate)
        trainer = build_task_trainer(training, training.precision, [evaluate, progress])
        with launching_ranks():
            trainer.fit(module, train_dataloaders=training_loader(steps, training.workers))
        return evaluate.stopped_by

    def score(self, module: TaskModule, examples: Sequence[Any]) -> Scores:
        """Return the official scores of the network's predictions; each rank predicts its share."""
        mine = range(module.global_rank, len(examples), module.trainer.world_size)
        found: list[tuple[int, Any]] = []
        lengths = [sum(map(len, examples[number].texts())) for number in mine]
        for places in by_length(lengths, self.config.training.batch_size):
            numbers = [mine[place] for place in places]
            found += zip(numbers, module.predict(self.make_batch([examples[n] for n in numbers])), strict=True)
        by_number = dict(gather(found))
        return self.kind.score(examples, [by_number[number] for number in range(len(examples))])

    def _finish(self, module: TaskModule) -> TaskResult:
        """Score the best network, and write it as a model folder."""
        module.load_weights(load_file(self.run_dir / BEST))
        task = Task(self.task, self.config, self.tables, module.network, self.elmo)
        parts = {"dev": self.data.dev, "test": self.data.test}
        scores = {
            name: self.kind.score(examples, task.predict(examples, self.config.training.batch_size))
            for name, examples in parts.items()
            if examples
        }
        task.save(self.run_dir / "model", scores)
        learned = module.network.placement.learned()
        result = TaskResult(self.run_dir, self.task, self.kind.main, module.state, scores, learned)
        result.save(settings_of_scores(self.config))
        return result


class StopRequested(Exception):
    """A signal came while the biLM's layers were computed; the message is its name."""


def _check_for_stop() -> None:
    signal = signals.received()
    if signal is not None:
        raise StopRequested(signal.name)


def _elmo(config: TaskConfig) -> Elmo:
    bilm = load_trained(config.elmo.checkpoint, softmax=False).bilm
    return Elmo(bilm, num_outputs=0, trainable=config.elmo.trained)


def _vectors(config: TaskConfig, texts: Sequence[tuple[str, ...]]) -> WordVectors | None:
    """Return (row of each word, vectors) of the words of `texts` in the file `vectors=`, None without one."""
    require(
        bool(config.vectors) or config.words.vectors != "fixed",
        "words.vectors=fixed needs word vectors that were trained before: give vectors=FILE, or words.vectors=trained",
    )
    if not config.vectors or config.words.vectors == "none":
        return None
    words = {word for text in texts for word in text}
    if config.words.case == "keep_then_lower":
        words |= {word.lower() for word in words}
    found, values = read_word_vectors(config.vectors, words, lower=config.words.case == "lower")
    return {word: row for row, word in enumerate(found)}, values


def train_task(task: str, config: TaskConfig) -> TaskResult:
    """Train a task; see `TaskRun.train`."""
    return TaskRun(task, config).train()
