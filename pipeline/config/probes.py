"""Every option of `elmo probe`: what single frozen layers know (Peters et al. 2018, section 5.3)."""

from dataclasses import dataclass
from typing import Literal

from pipeline.config.commands import PRECISION
from pipeline.config.schema import ACCELERATOR, Accelerator, ConfigError, Precision, option, require, require_bounds


@dataclass
class ProbeConfig:
    checkpoint: str = option(
        "", "biLM: checkpoint, run folder, model folder or ORG/NAME; pos, wsd: or a model of `elmo cove`"
    )
    output: str = option("", "write the result as JSON to this file")
    accelerator: Accelerator = option("auto", ACCELERATOR)
    threads: int | None = option(None, "CPU threads [null: the default of torch]", 1)

    def __post_init__(self) -> None:
        require_bounds(self)


@dataclass
class LayerProbeConfig(ProbeConfig):
    layers: list[str] = option([], "instead of checkpoint=: HDF5 files as of `elmo embed`, for all sentences in order")
    sentences: str = option("", "write the sentences to this file, one a line, and end: the text for layers=")


@dataclass
class PosProbeConfig(LayerProbeConfig):
    train: list[str] = option([], "training data: one or more files of CoNLL columns, compressed or not")
    dev: str = option("", "data that early stopping watches")
    test: str = option("", "data that is scored once, at the end [default: none]")
    word_column: int = option(0, "column of the words, from 0; -1 is the last")
    tag_column: int = option(-1, "column of the tags, from 0; -1 is the last")
    batch_size: int = option(80, "sentences of a step", 1)
    learning_rate: float = option(0.001, "of Adam")
    max_epochs: int = option(50, "most readings of the training data", 1)
    patience: int = option(3, "a layer's training ends after this many epochs without a better score on dev", 1)
    seed: int = option(1, "seed of the order of sentences", 0)
    keep: Literal["float32", "float16"] = option("float32", "keep the biLM's layers on disk in this type")
    cache_dir: str | None = option(None, "folder of kept layers [null: $ELMO_CACHE, else ~/.cache/elmo-pipeline]")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.learning_rate > 0, f"learning_rate={self.learning_rate} must be above 0")


@dataclass
class WsdProbeConfig(LayerProbeConfig):
    semcor: list[str] = option([], "text with senses: JSON lines, or XML of Raganato et al. with its keys beside it")
    sense_index: str = option("", "index.sense of WordNet, for words without a sense in semcor=")
    test: list[str] = option([], "test sets: NAME.data.xml of Raganato et al. 2017")
    gold: list[str] = option([], "keys of each test set, in the same order [default: NAME.gold.key.txt beside it]")


@dataclass
class PairsProbeConfig(ProbeConfig):
    data: list[str] = option([], "files, globs, folders of BLiMP's JSON lines")
    tokenize: bool = option(True, "split the raw sentences into words; false: they are split at white space")
    language: str = option("en", "language code for the rules of the tokeniser")
    precision: Precision = option("32-true", PRECISION)


PROBES: dict[str, type[ProbeConfig]] = {"pos": PosProbeConfig, "wsd": WsdProbeConfig, "pairs": PairsProbeConfig}


def probe_schema(name: str) -> type[ProbeConfig]:
    """Return the config of the probe called `name`. Raises ConfigError for another name."""
    if name not in PROBES:
        raise ConfigError(f"there is no probe {name!r}; the probes are {', '.join(PROBES)}")
    return PROBES[name]
