"""Every option of `elmo task` and `elmo predict`: each task's own defaults, AllenNLP's form of the paper's network.

Sources of the values: the files of the networks in pipeline/tasks/networks/.
"""

from dataclasses import dataclass, field
from typing import Any

from pipeline.config.commands import APPLYING_ACCELERATOR, ApplyingAccelerator
from pipeline.config.schema import ConfigError, RunConfig, WandbConfig, option, require, require_bounds
from pipeline.config.task_networks import (
    CharacterCnnConfig,
    CoreferenceConfig,
    ElmoConfig,
    EmbedderConfig,
    EntailmentConfig,
    QuestionAnsweringConfig,
    SentimentConfig,
    SrlConfig,
    TaggerConfig,
    TaskTraining,
)


@dataclass
class FormatConfig:
    """How files are read, where that is not known from themselves."""

    word_column: int = option(0, "pos, ner: column of the words, from 0; -1 is the last")
    tag_column: int = option(-1, "pos, ner: column of the tags, from 0; -1 is the last")
    language: str = option("en", "squad, snli: language code for the rules that split raw text into words")


@dataclass
class TaskConfig:
    train: list[str] = option([], "training data: one or more files of the task's format, compressed or not")
    dev: str = option("", "data that early stopping watches")
    test: str = option("", "data that is scored once, at the end [default: none]")
    vectors: str = option("", "word vectors in GloVe's text format; needed by words.vectors=fixed [default: random]")
    format: FormatConfig = field(default_factory=FormatConfig)
    run: RunConfig = field(default_factory=lambda: RunConfig(dir="runs/task"))
    elmo: ElmoConfig = field(default_factory=ElmoConfig)
    words: EmbedderConfig = field(default_factory=EmbedderConfig)
    training: TaskTraining = field(default_factory=TaskTraining)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    @property
    def sizes(self) -> Any:
        """The section `network`, whose type is the task's."""
        return self.network  # type: ignore[attr-defined]


def _of(value: Any) -> Any:
    """A section with the task's own defaults; each config gets a copy."""
    from copy import deepcopy

    return field(default_factory=lambda: deepcopy(value))


_ADADELTA = {"optimizer": "adadelta", "learning_rate": 1.0, "rho": 0.95}


@dataclass
class NerConfig(TaskConfig):
    network: TaggerConfig = _of(TaggerConfig())
    words: EmbedderConfig = _of(EmbedderConfig(case="lower", dim=50, characters=CharacterCnnConfig(16)))
    elmo: ElmoConfig = _of(ElmoConfig("input", dropout=0.0, l2=0.1))
    training: TaskTraining = _of(TaskTraining(batch_size=64, clip_norm=5.0, patience=25))


@dataclass
class PosConfig(TaskConfig):
    network: TaggerConfig = _of(TaggerConfig(crf=False))
    words: EmbedderConfig = _of(EmbedderConfig(case="lower", dim=50, characters=CharacterCnnConfig(16)))
    elmo: ElmoConfig = _of(ElmoConfig("input", dropout=0.0))
    training: TaskTraining = _of(TaskTraining(batch_size=80, clip_norm=5.0, max_epochs=50, patience=3))


@dataclass
class SrlTaskConfig(TaskConfig):
    network: SrlConfig = _of(SrlConfig())
    words: EmbedderConfig = _of(EmbedderConfig(case="lower"))
    elmo: ElmoConfig = _of(ElmoConfig("input", dropout=0.1, l2=0.001))
    training: TaskTraining = _of(
        TaskTraining(**_ADADELTA, eps=1e-6, clip_value=1.0, batch_size=80, max_epochs=500, patience=200, max_tokens=100)  # type: ignore[arg-type]
    )


@dataclass
class CorefConfig(TaskConfig):
    network: CoreferenceConfig = _of(CoreferenceConfig())
    words: EmbedderConfig = _of(
        EmbedderConfig("fixed", normalise=True, dim=350, characters=CharacterCnnConfig(8, [[3, 50], [4, 50], [5, 50]]))
    )
    elmo: ElmoConfig = _of(ElmoConfig("input", dropout=0.5))
    training: TaskTraining = _of(
        TaskTraining(
            clip_norm=5.0,
            batch_size=1,
            max_epochs=150,
            patience=10,
            schedule="steps",
            decay=0.999,
            decay_every_steps=100,
        )
    )


@dataclass
class SquadConfig(TaskConfig):
    network: QuestionAnsweringConfig = _of(QuestionAnsweringConfig())
    words: EmbedderConfig = _of(
        EmbedderConfig(
            "fixed", "keep_then_lower", dim=300, characters=CharacterCnnConfig(20, [[5, 100]], 0.2, 14, 49, 0.05)
        )
    )
    elmo: ElmoConfig = _of(ElmoConfig("both", dropout=0.5))
    training: TaskTraining = _of(
        TaskTraining(**_ADADELTA, batch_size=45, max_epochs=24, ema=0.999, validate_every_steps=1200)  # type: ignore[arg-type]
    )


@dataclass
class SnliConfig(TaskConfig):
    network: EntailmentConfig = _of(EntailmentConfig())
    words: EmbedderConfig = _of(EmbedderConfig(case="lower", dim=300))
    elmo: ElmoConfig = _of(ElmoConfig("both", dropout=0.0, l2=0.001, layer_norm=True))
    training: TaskTraining = _of(
        TaskTraining(learning_rate=4e-4, batch_size=32, clip_norm=10.0, patience=5, schedule="plateau", decay=0.5)
    )


@dataclass
class Sst5Config(TaskConfig):
    network: SentimentConfig = _of(SentimentConfig())
    words: EmbedderConfig = _of(EmbedderConfig("fixed", dim=300))
    elmo: ElmoConfig = _of(ElmoConfig("both", dropout=0.0, l2=0.001))
    training: TaskTraining = _of(
        TaskTraining(batch_size=100, clip_norm=5.0, max_epochs=40, patience=5, all_phrases=True)
    )


TASKS: dict[str, type[TaskConfig]] = {
    "pos": PosConfig,
    "ner": NerConfig,
    "srl": SrlTaskConfig,
    "coref": CorefConfig,
    "squad": SquadConfig,
    "snli": SnliConfig,
    "sst5": Sst5Config,
}


def task_schema(name: str) -> type[TaskConfig]:
    """Return the config of the task called `name`. Raises ConfigError for another name."""
    if name not in TASKS:
        raise ConfigError(f"there is no task {name!r}; the tasks are {', '.join(TASKS)}")
    return TASKS[name]


@dataclass
class StudyConfig:
    tasks: list[str] = option([], f"tasks of the grid, as tasks=ner,pos: {', '.join(TASKS)}")
    grid: dict[str, Any] = option(
        {}, "in a YAML file: options or sections of `elmo task`, each with its values; default: leave it"
    )
    configs: list[str] = option([], "YAML files for every run, as configs/tasks/small.yaml")
    settings: dict[str, Any] = option({}, "in a YAML file: options for every run, and for each task under its name")
    dir: str = option("runs/study", "folder of the study; it holds a run folder for each point of the grid")
    reuse: list[str] = option([], "folders of other studies: their results of runs of the same settings are copied")
    processes: int = option(1, "runs at the same time on this machine", 1)
    part: int = option(0, "number of this job of an array, from 0", 0)
    parts: int = option(1, "jobs of an array that share the runs out", 1)

    def __post_init__(self) -> None:
        require_bounds(self)
        self.tasks = [name.strip() for names in self.tasks for name in names.split(",")]
        require(self.part < self.parts, f"part={self.part} must be below parts={self.parts}")


@dataclass
class PredictConfig:
    model: str = option("", "model folder of a task: RUN_DIR/model of `elmo task`")
    input: str = option("", "text in the task's format; labels in it are not needed, and not used")
    output: str = option("", "file to write: the input with the predicted column or field")
    batch_size: int = option(32, "examples computed together: memory and speed; with elmo.layer_norm labels too", 1)
    accelerator: ApplyingAccelerator = option("auto", APPLYING_ACCELERATOR)

    def __post_init__(self) -> None:
        require_bounds(self)
        for name in ("model", "input", "output"):
            require(bool(getattr(self, name)), f"{name}= is missing; elmo predict model=DIR input=FILE output=FILE")
