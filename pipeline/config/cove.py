"""Every option of `elmo cove`.

Defaults are those of McCann et al. 2017 (salesforce/cove, OpenNMT-py/train.py:31-95).
"""

from dataclasses import dataclass, field

from pipeline.config.schema import RunConfig, WandbConfig, option, require, require_bounds
from pipeline.config.task_networks import Case, TaskTraining, require_share

_VECTORS = "word vectors in GloVe's text format; they stay as they are, and words without one are zero"
_MAX_VECTORS = "word vectors to use and to keep in the model, the file's first (the most frequent words in GloVe's)"
_CASE = "look a source word up as it is, in lower case, or as it is and else in lower case"


@dataclass
class CoveNetworkConfig:
    hidden: int = option(300, "units of each encoder LSTM in each direction; the decoder's LSTMs have twice as many", 1)
    num_layers: int = option(2, "LSTM layers of the encoder, and of the decoder", 1)
    target_dim: int = option(300, "size of a target word's vector, which is learned", 1)
    dropout: float = option(0.2, "dropout of word vectors, between LSTM layers, and of what the decoder attends to")
    init_range: float = option(0.1, "all weights start uniform in +- this")

    def __post_init__(self) -> None:
        require_bounds(self, "network.")
        require_share("network.dropout", self.dropout)
        require(self.init_range > 0, f"network.init_range={self.init_range} must be above 0")


def _training() -> TaskTraining:
    return TaskTraining(
        optimizer="sgd",
        learning_rate=1.0,
        clip_norm=5.0,
        batch_size=64,
        max_epochs=30,
        schedule="plateau",
        decay=0.5,
        min_learning_rate=0.03,
        max_tokens=75,
    )


@dataclass
class CoveConfig:
    source: list[str] = option([], "sentences to translate from, one a line; the language of the word vectors")
    target: list[str] = option([], "their translations: line n of a file is that of line n of source='s")
    dev_source: str = option("", "held-out sentences, for perplexity")
    dev_target: str = option("", "their translations")
    vectors: str = option("", _VECTORS)
    max_vectors: int = option(400_000, _MAX_VECTORS, 1)
    case: Case = option("lower", _CASE)
    lower: bool = option(True, "write the target in lower case")
    target_words: int = option(50_000, "target words that can be predicted, the most frequent; others are unknown", 1)
    tokenize: bool = option(False, "the text is raw: split it into words (extra `text`)")
    language: str = option("en", "language code of the source, for the rules of the tokeniser")
    target_language: str = option("de", "language code of the target")
    run: RunConfig = field(default_factory=lambda: RunConfig(dir="runs/cove"))
    network: CoveNetworkConfig = field(default_factory=CoveNetworkConfig)
    training: TaskTraining = field(default_factory=_training)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        require_bounds(self)


@dataclass
class CoveImportConfig:
    weights: str = option("", "the encoder that salesforce/cove published (wmtlstm-*.pth)")
    vectors: str = option("", _VECTORS + "; the published encoder reads GloVe 840B 300d")
    max_vectors: int = option(400_000, _MAX_VECTORS, 1)
    case: Case = option("lower", _CASE)
    output: str = option("", "folder to write")
    overwrite: bool = option(False, "replace a model in output=")

    def __post_init__(self) -> None:
        require_bounds(self)
        for name in ("weights", "vectors", "output"):
            require(
                bool(getattr(self, name)), f"{name}= is missing; elmo cove import weights=FILE vectors=FILE output=DIR"
            )


COVE_COMMANDS = {"train": CoveConfig, "import": CoveImportConfig}
