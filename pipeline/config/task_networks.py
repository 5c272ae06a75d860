"""Sizes and training of the tasks' networks, with defaults where all tasks share one.

Each task's own values: pipeline/config/tasks.py. Sources: the files of the networks in pipeline/tasks/networks/.
"""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipeline.config.schema import Accelerator, Precision, option, require, require_bounds

Case: TypeAlias = Literal["keep", "lower", "keep_then_lower"]


def require_share(name: str, value: float) -> None:
    require(0 <= value < 1, f"{name}={value} must be at least 0 and below 1")


@dataclass
class CharacterCnnConfig:
    dim: int = option(0, "size of a character's embedding; 0: words are not spelled", 0)
    filters: list[list[int]] = option([[3, 128]], "convolutions: a list of [width in characters, number of filters]")
    dropout: float = option(0.0, "dropout of the characters' embeddings")
    max_characters: int = option(50, "characters of a word; longer words are cut", 1)
    min_count: int = option(1, "rarer characters of the training text share one embedding", 1)
    init_range: float | None = option(None, "embeddings start uniform in +- this [null: Xavier]")

    def __post_init__(self) -> None:
        require_bounds(self, "words.characters.")
        require_share("words.characters.dropout", self.dropout)
        good = all(len(f) == 2 and 1 <= f[0] <= self.max_characters and f[1] >= 1 for f in self.filters)
        require(
            bool(self.filters) and good,
            f"words.characters.filters={self.filters} must be [width, number] pairs, each width from 1 to "
            f"words.characters.max_characters={self.max_characters}",
        )

    @property
    def min_characters(self) -> int:
        """The number of characters that the widest filter needs."""
        return max(width for width, _ in self.filters)


@dataclass
class EmbedderConfig:
    """The task's own word vectors: looked up, spelled by a character CNN, or both."""

    vectors: Literal["fixed", "trained", "none"] = option(
        "trained", "whether word vectors stay, learn with the task, or there are none"
    )
    case: Case = option("keep", "look a word up as it is, in lower case, or as it is and else in lower case")
    normalise: bool = option(False, "scale each word vector to length 1")
    dim: int = option(100, "size of word vectors that start at random, where no vectors= is given", 1)
    characters: CharacterCnnConfig = field(default_factory=CharacterCnnConfig)

    def __post_init__(self) -> None:
        require_bounds(self, "words.")

    @property
    def cnn(self) -> CharacterCnnConfig | None:
        """The character CNN, None where words are not spelled."""
        return self.characters if self.characters.dim else None


@dataclass
class ElmoConfig:
    """Where a biLM enters the network. Source: Peters et al. 2018, sections 3.2 and 3.3."""

    placement: Literal["none", "input", "output", "both"] = option(
        "input", "places where ELMo enters: with the lowest RNN's input, its output, both; each has its own mix"
    )
    layers: str = option("mix", "mix (learned weights), top, or the number of a single layer, 0 for the token layer")
    dropout: float = option(0.5, "dropout of each mixed vector")
    l2: float = option(0.0, "lambda: factor of the sum of squared mix weights in the loss (the paper's regularisation)")
    layer_norm: bool = option(False, "normalise each layer over the words of a batch, in prediction too, as AllenNLP")
    checkpoint: str = option("", "biLM: checkpoint, run folder, model folder or ORG/NAME [default: the baseline]")
    trained: bool = option(False, "train the biLM with the task; false: its weights stay as they are")
    keep: Literal["float32", "float16", "no"] = option(
        "float32", "keep the frozen biLM's layers on disk in this type; no: compute them in each batch"
    )
    cache_dir: str | None = option(None, "folder of kept layers [null: $ELMO_CACHE, else ~/.cache/elmo-pipeline]")

    def __post_init__(self) -> None:
        require_share("elmo.dropout", self.dropout)
        require(self.l2 >= 0, f"elmo.l2={self.l2} must not be negative; 0 is no regularisation")
        require(
            self.layers in ("mix", "top") or self.layers.isdecimal(),
            f"elmo.layers={self.layers} must be mix, top, or the number of a layer",
        )

    @property
    def is_used(self) -> bool:
        return bool(self.checkpoint) and self.placement != "none"


@dataclass
class TaskTraining:
    """Early stopping watches the task's score on dev."""

    optimizer: Literal["adam", "adadelta", "sgd"] = option("adam", "rule of the updates")
    learning_rate: float = option(1e-3, "learning rate")
    rho: float = option(0.95, "adadelta: decay of the averages")
    eps: float = option(1e-8, "added to the denominator of the update")
    clip_norm: float | None = option(None, "limit of the gradients' global norm; null: no limit")
    clip_value: float | None = option(None, "limit of each gradient value; null: no limit")
    batch_size: int = option(32, "examples of a step, of all processes together; of coreference: documents", 1)
    max_epochs: int = option(75, "end after this number of passes over the training data", 1)
    patience: int | None = option(None, "end after this number of evaluations without a better score; null: never", 1)
    schedule: Literal["constant", "plateau", "steps"] = option(
        "constant", "learning rate: constant, lower after evaluations without a better score, or lower every few steps"
    )
    decay: float = option(0.5, "plateau, steps: factor of the learning rate each time")
    plateau_patience: int = option(0, "plateau: evaluations without a better score to wait for before", 0)
    decay_every_steps: int = option(100, "steps: number of steps between", 1)
    min_learning_rate: float | None = option(None, "end once the learning rate is below this; null: never")
    ema: float | None = option(None, "decay of the moving average of the weights, which is evaluated; null: none")
    max_tokens: int | None = option(None, "leave out longer training examples; null: none", 1)
    validate_every_steps: int | None = option(None, "steps between evaluations on dev; null: once an epoch", 1)
    all_phrases: bool = option(False, "sst5: train on every labelled phrase of a tree, not on whole sentences only")
    share: float = option(1.0, "share of the training examples to use; a smaller share is part of a larger one")
    subset_seed: int = option(0, "seed of the choice of training.share", 0)
    accelerator: Accelerator = option("auto", "device to train on")
    devices: int = option(1, "processes on each node: one for each GPU", 1)
    nodes: int = option(1, "nodes", 1)
    threads: int | None = option(None, "CPU threads of each process [null: the cores divided by the processes]", 1)
    workers: int = option(0, "loader processes of each process; 0: the training process makes its batches", 0)
    precision: Precision = option("32-true", "32-true, or bf16-mixed: matrix products in bfloat16")

    def __post_init__(self) -> None:
        require_bounds(self, "training.")
        require(self.learning_rate > 0, f"training.learning_rate={self.learning_rate} must be positive")
        require(0 < self.share <= 1, f"training.share={self.share} must be above 0 and at most 1")
        require(0 < self.decay <= 1, f"training.decay={self.decay} must be above 0 and at most 1")
        lowest = self.min_learning_rate
        require(
            lowest is None or lowest <= self.learning_rate,
            f"training.min_learning_rate={lowest} must not be above training.learning_rate={self.learning_rate}",
        )
        for name in ("clip_norm", "clip_value"):
            limit = getattr(self, name)
            require(limit is None or limit > 0, f"training.{name}={limit} must be positive; use null for no limit")
        if self.ema is not None:
            require_share("training.ema", self.ema)


@dataclass
class TaggerConfig:
    """POS and NER."""

    hidden: list[int] = option([200, 200], "units of each LSTM layer in each direction")
    dropout: float = option(0.5, "dropout of the input, between layers and of the output")
    variational: bool = option(False, "one dropout mask for all words of a sentence")
    crf: bool = option(True, "a CRF over tags, decoded by the rules of BIOES; false: a softmax a word")

    def __post_init__(self) -> None:
        require(bool(self.hidden) and min(self.hidden) >= 1, f"network.hidden={self.hidden} must be positive sizes")
        require_share("network.dropout", self.dropout)


@dataclass
class SrlConfig:
    hidden: int = option(300, "units of each LSTM layer", 1)
    num_layers: int = option(8, "LSTM layers, of alternating direction", 1)
    predicate_dim: int = option(100, "size of the embedding of 'this word is the predicate'", 1)
    dropout: float = option(0.1, "dropout of the recurrent state, one mask a sentence")

    def __post_init__(self) -> None:
        require_bounds(self, "network.")
        require_share("network.dropout", self.dropout)


@dataclass
class CoreferenceConfig:
    hidden: int = option(200, "units of the LSTM in each direction", 1)
    max_width: int = option(10, "words of the longest span", 1)
    spans_per_word: float = option(0.4, "spans kept after pruning, for each word of the document")
    max_antecedents: int = option(250, "nearest kept spans that a span is compared with", 1)
    feature_dim: int = option(20, "size of the embeddings of width, distance, speaker and genre", 1)
    scorer_hidden: list[int] = option([150, 150], "sizes of the hidden layers of both scorers")
    lexical_dropout: float = option(0.5, "dropout of the input")
    dropout: float = option(0.2, "dropout of the LSTM's output, the features and the scorers")
    speakers: bool = option(True, "use speakers, where the data names them")
    max_sentences: int = option(50, "longer documents are cut to a random stretch of this length in training", 1)
    pairs_at_once: int = option(1 << 12, "pairs of spans computed together; changes memory and speed only", 1)

    def __post_init__(self) -> None:
        require_bounds(self, "network.")
        require(self.spans_per_word > 0, f"network.spans_per_word={self.spans_per_word} must be positive")
        for name in ("lexical_dropout", "dropout"):
            require_share(f"network.{name}", getattr(self, name))


@dataclass
class QuestionAnsweringConfig:
    hidden: int = option(90, "units of each GRU in each direction", 1)
    dropout: float = option(0.2, "variational dropout before and after each GRU")
    max_answer: int = option(17, "words of the longest answer that is predicted", 1)
    loss: Literal["random", "all"] = option("random", "learn a random one of the right spans each time, or all of them")

    def __post_init__(self) -> None:
        require_bounds(self, "network.")
        require_share("network.dropout", self.dropout)


@dataclass
class EntailmentConfig:
    hidden: int = option(300, "units of each LSTM in each direction, and of the dense layers", 1)
    dropout: float = option(0.5, "dropout, variational before each LSTM")

    def __post_init__(self) -> None:
        require_bounds(self, "network.")
        require_share("network.dropout", self.dropout)


@dataclass
class SentimentConfig:
    hidden: int = option(300, "units of each LSTM in each direction, and of the layer before", 1)
    embedding_dropout: float = option(0.25, "dropout of the input")
    encoder_dropout: float = option(0.25, "dropout after the first dense layer")
    output_hidden: list[int] = option([1200, 600], "sizes of the two layers after pooling")
    output_dropout: list[float] = option([0.1, 0.2, 0.3], "dropout before them, after the first, after the second")
    maxout: bool = option(True, "maxout of 4 pieces; false: relu, as in the paper")

    def __post_init__(self) -> None:
        require_bounds(self, "network.")
        good = len(self.output_hidden) == 2 and min(self.output_hidden) >= 1
        require(good, f"network.output_hidden={self.output_hidden} must be two positive sizes")
        require(len(self.output_dropout) == 3, f"network.output_dropout={self.output_dropout} must be three shares")
        for share in (self.embedding_dropout, self.encoder_dropout, *self.output_dropout):
            require_share("network dropout", share)
