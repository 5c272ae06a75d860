"""`elmo cove train`: train the translation model, and keep the encoder that has the lowest perplexity on dev."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from safetensors.torch import load_file

from pipeline.config.cove import CoveConfig
from pipeline.config.schema import require
from pipeline.config.task_networks import EmbedderConfig
from pipeline.tasks.cove.encoder import TranslationEncoder
from pipeline.tasks.cove.model import Cove, vectors_of
from pipeline.tasks.cove.parallel_text import ParallelText, Translation
from pipeline.tasks.cove.translator import LogProbability, TranslationBatch, Translator
from pipeline.tasks.examples.word_vectors import read_first_vectors
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.sequences import Tables, choose_words
from pipeline.tasks.training.callbacks import BEST, EvaluateAndSave, ShowProgress
from pipeline.tasks.training.module import TaskModule
from pipeline.tasks.training.result import Scores, TaskResult
from pipeline.tasks.training.resumable import ResumableTraining
from pipeline.tasks.training.settings import settings_of_scores
from pipeline.tasks.training.state import TaskState

MAIN, PERPLEXITY = "log_probability", "perplexity"
_MAX_LOG = 30.0  # perplexities above e to this are shown as this: the model has diverged


class CoveRun(ResumableTraining):
    """One training of the translation model, from its files to its model folder."""

    def __init__(self, config: CoveConfig) -> None:
        self.config = config
        for name in ("source", "target", "dev_source", "dev_target", "vectors"):
            require(bool(getattr(config, name)), f"{name}= is missing; elmo cove train -h says what it is")
        files = [*config.source, *config.target, config.dev_source, config.dev_target, config.vectors]
        super().__init__("cove", MAIN, False, config, config.run, config.training, config.wandb, files)
        text, limit = ParallelText(config), config.training.max_tokens
        pairs = text.read(config.source, config.target)
        self.train_pairs = [pair for pair in pairs if limit is None or pair.longest <= limit]
        require(bool(self.train_pairs), f"no pair has at most training.max_tokens={limit} words; raise it")
        self.dev_pairs = text.read([config.dev_source], [config.dev_target])
        self._words, self._values = read_first_vectors(config.vectors, config.max_vectors, config.case == "lower")
        self.tables, self._vectors = self._tables()

    def _tables(self) -> tuple[Tables, np.ndarray]:
        """Return the tables of the training, whose source words are those of the text only."""
        known = {word: row for row, word in enumerate(self._words)}
        texts = [pair.source for pair in (*self.train_pairs, *self.dev_pairs)]
        words, vectors = choose_words(texts, self.config.case, (known, self._values))
        require(len(words.words) > 0, f"{self.config.vectors} has a vector for no word of source=; check its language")
        return Tables(words, None, Translator.labels_of(self.train_pairs)[: self.config.target_words]), vectors

    @property
    def examples(self) -> Sequence[Translation]:
        return self.train_pairs

    def make_batch(self, examples: Sequence[Translation]) -> TranslationBatch:
        return Translator.make_batch(examples, self.tables)

    def module(self, state: TaskState) -> TaskModule:
        torch.manual_seed(self.config.run.seed)
        embedder = Embedder(EmbedderConfig("fixed", self.config.case), self._vectors)
        network = Translator(self.config.network, embedder, self.tables.labels)
        return TaskModule(network, self.config.training, state, self.config.run.seed)

    def progress(self, total: int, evaluations: EvaluateAndSave) -> ShowProgress:
        return _ShowPerplexity(self.name, total, self.main, evaluations)

    def score_dev(self, module: TaskModule) -> Scores:
        found: list[LogProbability] = self.predictions(module, self.dev_pairs)
        mean = math.fsum(total for total, _ in found) / sum(words for _, words in found)
        return {MAIN: mean, PERPLEXITY: _perplexity(mean)}

    def finish(self, module: TaskModule) -> TaskResult:
        """Write the encoder that was best on dev, with all word vectors, as a model folder."""
        require(
            (self.run_dir / BEST).exists(),
            f"no perplexity on dev was finite, so the training diverged; use a lower training.learning_rate than "
            f"{self.config.training.learning_rate}, and another run.dir",
        )
        module.load_weights(load_file(self.run_dir / BEST))
        sizes = self.config.network
        encoder = TranslationEncoder(self._values.shape[1], sizes.hidden, sizes.num_layers)
        encoder.load_state_dict(module.network.encoder.state_dict())  # type: ignore[union-attr]
        model = Cove(*vectors_of(self._words, self._values, self.config.case), encoder)
        scores = {MAIN: module.state.best, PERPLEXITY: _perplexity(module.state.best)}
        model.scores = scores
        model.save(self.run_dir / "model")
        result = TaskResult(self.run_dir, self.name, MAIN, module.state, {"dev": scores}, {})
        result.save(settings_of_scores(self.config))
        return result


class _ShowPerplexity(ShowProgress):
    def shown(self, state: TaskState, latest: float) -> str:
        best = f"best {_perplexity(state.best):,.2f} at step {state.best_step:,}"
        return f"held-out perplexity {_perplexity(latest):,.2f}, {best}, learning rate {self.module.learning_rate:g}"


def _perplexity(log_probability: float) -> float:
    return math.exp(min(-log_probability, _MAX_LOG))


def train_cove(config: CoveConfig) -> TaskResult:
    """Train the translation model. Raises ConfigError, DataError."""
    return CoveRun(config).train()
