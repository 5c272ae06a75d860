"""`elmo task`: train a task with or without a biLM, and keep the network that scores best on dev."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from data_prep.dataset.remote import default_cache_dir
from pipeline.config.schema import require
from pipeline.config.tasks import TaskConfig
from pipeline.model.backend.device import choose_device
from pipeline.tasks.contents import contents_of
from pipeline.tasks.examples.word_vectors import read_word_vectors
from pipeline.tasks.kinds import Kind, kind_of
from pipeline.tasks.layer_cache import LayerCache
from pipeline.tasks.layer_encoder import open_encoder
from pipeline.tasks.networks.network import make_tables
from pipeline.tasks.networks.sequences import Batch, WordVectors
from pipeline.tasks.task import Task, build_network
from pipeline.tasks.training.callbacks import BEST
from pipeline.tasks.training.loader import KeptLayers
from pipeline.tasks.training.module import TaskModule
from pipeline.tasks.training.result import Scores, TaskResult
from pipeline.tasks.training.resumable import ResumableTraining, StopRequested
from pipeline.tasks.training.settings import settings_of_scores, settings_of_steps
from pipeline.tasks.training.state import TaskState
from pipeline.train.cluster import signals


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


class TaskRun(ResumableTraining):
    """One training of a task, from its files to its model folder."""

    def __init__(self, task: str, config: TaskConfig) -> None:
        self.task, self.config, self.kind = task, config, kind_of(task)
        files = [*config.train, config.dev, config.test, config.vectors]
        parts = config.run, config.training, config.wandb
        super().__init__(task, self.kind.main, self.kind.sums_loss, config, *parts, files)
        self.data = read_data(config, self.kind)
        texts = [text for example in self.data.used for text in example.texts()]
        labels = self.kind.network.labels_of(self.data.train)
        vectors = _vectors(config, texts)
        self.tables, self._vectors = make_tables(config.words, texts, labels, vectors, config.run.seed)
        self.elmo = open_encoder(config.elmo.checkpoint, trained=config.elmo.trained) if config.elmo.is_used else None

    @property
    def examples(self) -> Sequence[Any]:
        return self.data.train

    @cached_property
    def contents(self) -> dict[str, str]:
        return contents_of(self.config, self.elmo)

    @cached_property
    def identity(self) -> dict[str, Any]:
        return {"task": self.name, **settings_of_steps(self.settings), **self.contents}

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

    def cut(self, example: Any, step: int) -> Any:
        chance = np.random.default_rng([self.config.run.seed, step])
        return self.kind.network.cut(example, self.config.network, chance)  # type: ignore[attr-defined]

    def make_batch(self, examples: Sequence[Any]) -> Batch:
        """Return a batch, with the biLM's layers where they are kept."""
        batch: Batch = self.kind.network.make_batch(examples, self.tables)
        return batch if self.kept is None else batch.with_elmo(self.kept)

    def module(self, state: TaskState) -> TaskModule:
        torch.manual_seed(self.config.run.seed)
        network = build_network(self.task, self.config, self.tables, self._vectors, self.elmo)
        reader = self.elmo if self.kept is None else None
        return TaskModule(network, self.config.training, state, self.config.run.seed, reader)

    def prepare(self) -> None:
        self.kept  # noqa: B018

    def score_dev(self, module: TaskModule) -> Scores:
        return self.kind.score(self.data.dev, self.predictions(module, self.data.dev))

    def finish(self, module: TaskModule) -> TaskResult:
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
        result.save(settings_of_scores(self.config), self.contents)
        return result


def _check_for_stop() -> None:
    signal = signals.received()
    if signal is not None:
        raise StopRequested(signal.name)


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
