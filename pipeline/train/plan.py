"""The plan of a run, of pretraining or fine-tuning: its text, target words, length and folder."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from data_prep.dataset.locations import local_path, store_url
from data_prep.dataset.shards import Dataset
from pipeline.config.schema import PretrainConfig
from pipeline.data.combined_windows import BACKWARD_SEED, MixedWindows, PerDirectionWindows
from pipeline.data.datamodule import evaluation_windows
from pipeline.data.lanes import TrainLanes
from pipeline.data.vocabulary import Vocabulary
from pipeline.data.windows import BatchMaker, EvaluationWindows, TrainWindows, Windows
from pipeline.model.backend.device import choose_device
from pipeline.model.language_model import LanguageModel
from pipeline.train.cluster.torchrun_env import require_torchrun_shape
from pipeline.train.run_dir.checkpoint import CheckpointFolder
from pipeline.train.run_dir.lock import run_identity
from pipeline.train.run_dir.mirror import Mirror
from pipeline.train.step.freeze import Freeze
from pipeline.train.step.inputs import Preparation
from pipeline.train.trainer import global_rank


@dataclass
class Corpus:
    """A dataset, the mapping of its words to the run's target words, and the lanes that read it."""

    dataset: Dataset
    vocabulary: Vocabulary
    lanes: TrainLanes

    def maker(self, max_characters: int) -> BatchMaker:
        return BatchMaker(self.dataset.lexicon, self.vocabulary, max_characters)

    def windows(self, config: PretrainConfig) -> Windows:
        maker, seed = self.maker(config.model.max_characters), config.run.seed
        shared = TrainWindows(self.dataset.splits["train"], maker, self.lanes, seed)
        if config.data.order == "shared":
            return shared
        backward = TrainWindows(self.dataset.splits["train"], maker, self.lanes, seed + BACKWARD_SEED)
        return PerDirectionWindows(shared, backward)


@dataclass
class Plan:
    """corpus: the text to train on and, by its held-out split, to validate on.

    vocabulary: returns the target words for a checkpoint. general: text that the other lanes of each batch read, if
    any. start: initializes new weights; None: from the seed alone. group: of the run in wandb; None: its own. notes:
    lines to print at the start. more_identity: settings that must stay the same besides those of every run.
    auto: what `auto` came to in a setting, and why. device: cuda or cpu. prepare: makes step inputs from batches, in
    the loader's processes.
    """

    config: PretrainConfig
    corpus: Corpus
    vocabulary: Callable[[], dict[str, Tensor]]
    command: str = "pretrain"
    general: Corpus | None = None
    freeze: Freeze = field(default_factory=Freeze)
    start: Callable[[LanguageModel], None] | None = None
    group: str | None = None
    notes: list[str] = field(default_factory=list)
    more_identity: dict[str, Any] = field(default_factory=dict)
    auto: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ConfigError for a device or candidates that cannot be had, before a folder is claimed."""
        config, corpus = self.config, self.corpus
        require_torchrun_shape(config.train.nodes, config.train.devices)
        self.run_dir, self.checkpoints = local_path(config.run.dir, "run.dir"), checkpoints_of(config)
        self.mirror = mirror_of(config)
        self.rank, self.vocab_size = global_rank(config.train), corpus.vocabulary.size
        self.total_steps = corpus.lanes.steps(config.train.epochs, config.train.max_steps)
        self.identity = run_identity(config, corpus.dataset, self.vocab_size) | self.more_identity
        self.device = choose_device(config.train.accelerator, config.train.devices)
        self.prepare = Preparation(config, self.vocab_size)

    @property
    def windows(self) -> Windows:
        windows = self.corpus.windows(self.config)
        return windows if self.general is None else MixedWindows(windows, self.general.windows(self.config))

    @property
    def validation_windows(self) -> EvaluationWindows | None:
        heldout = self.corpus.dataset.splits.get("heldout")
        if heldout is None or heldout.num_tokens == 0:
            return None
        maker = self.corpus.maker(self.config.model.max_characters)
        return evaluation_windows(heldout, maker, self.config.evaluate, self.config.train.validate_tokens)


def checkpoints_of(config: PretrainConfig) -> CheckpointFolder:
    """Return the checkpoints of the run in run.dir."""
    return CheckpointFolder(local_path(config.run.dir, "run.dir") / "checkpoints", config.checkpoint.keep_last)


def mirror_of(config: PretrainConfig) -> Mirror | None:
    """Return the mirror of the run's checkpoints, None without checkpoint.mirror."""
    url = config.checkpoint.mirror
    return Mirror(store_url(url, "checkpoint.mirror"), checkpoints_of(config)) if url else None
