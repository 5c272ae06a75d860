"""Every option of the commands around training, with its default and meaning."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from pipeline.config.schema import (
    ACCELERATOR,
    Accelerator,
    EvaluateConfig,
    Precision,
    PretrainConfig,
    option,
    require,
    require_bounds,
)

ApplyingAccelerator: TypeAlias = Literal["auto", "cpu", "gpu", "mps"]
APPLYING_ACCELERATOR = "auto: a GPU by CUDA, else the CPU. mps: an Apple GPU, only if named, and not tested"
PRECISION = "bf16-mixed: matrix products in bfloat16"


@dataclass
class BudgetConfig(PretrainConfig):
    """The settings of the runs to compare, and those of `elmo plan`."""

    hours: float | None = option(None, "hours of training, by the speed that is measured on this machine")
    configs: list[str] = option(
        ["nano", "micro", "mini", "small", "medium", "original"], "sizes to compare, each with the config fast"
    )
    seconds: float = option(5.0, "seconds to measure the speed of each config for, after its start")
    law: str = option("", "law.json of python -m benchmarks.scaling [default: the one of this package]")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.hours is not None, "hours= is missing: give the hours of training, as in hours=8")
        require(self.hours is None or self.hours > 0, f"hours={self.hours} must be positive, as in hours=8")
        require(self.seconds > 0, f"seconds={self.seconds} must be positive; 5 are enough on most machines")
        require(bool(self.configs), "configs=[] names no config; leave it out to compare all sizes")
        nodes = self.train.nodes
        require(nodes == 1, f"train.nodes={nodes}: the speed is measured on one machine; leave it out")


@dataclass
class EvaluateCommandConfig:
    checkpoint: str = option("", "checkpoint file, or a run's folder (its best checkpoint, else its newest)")
    data: list[str] = option([], "a dataset, or text files with one tokenised sentence a line")
    split: str = option("heldout", "split of the dataset")
    output: str = option("", "write the result as JSON to this file")
    accelerator: Accelerator = option("auto", ACCELERATOR)
    devices: int = option(1, "processes; the result does not depend on them", 1)
    precision: Precision = option("32-true", PRECISION)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        require_bounds(self)


@dataclass
class ExportConfig:
    checkpoint: str = option("", "checkpoint file, a run's folder, or a model that was exported or imported")
    output: str = option("", "folder to write")
    format: Literal["elmo", "allennlp"] = option(
        "elmo", "elmo: everything; allennlp: for AllenNLP, bilm-tf and simple_elmo, without softmax"
    )
    corpus: str = option("", "name of the training corpus in the model card [default: the dataset's folder]")
    hub: str = option("", "also upload to this repository on the Hugging Face hub: ORG/NAME (extra `hub`)")
    overwrite: bool = option(False, "replace a model in output=")


@dataclass
class ImportConfig:
    options: str = option("", "options.json of bilm-tf or AllenNLP")
    weights: str = option("", "the HDF5 weights that came with it (extra `weights`)")
    vocabulary: str = option("", "its vocabulary, one word a line [default: none; embedding needs none]")
    output: str = option("", "folder to write")
    overwrite: bool = option(False, "replace a model in output=")
    format: Literal["allennlp", "elmoformanylangs"] = option(
        "allennlp", "allennlp: files of bilm-tf or AllenNLP; elmoformanylangs: a model's folder, with path="
    )
    path: str = option("", "the folder of a model of ELMoForManyLangs: config.json, char.dic, encoder.pkl, ...")


@dataclass
class EmbedConfig:
    checkpoint: str = option("", "checkpoint file, a run's folder, or a model that was exported or imported")
    input: list[str] = option([], "files, globs, folders: one tokenised sentence a line; - is standard input")
    output: str = option("", "file to write: .h5 (bilm-tf's and AllenNLP's layout), .npz, .safetensors or .parquet")
    layers: str = option("all", "all, top, average, mix, or a layer's number (0: the word without context)")
    weights: list[float] = option([], "with layers=mix: factor of each layer, used as given (no softmax)")
    gamma: float = option(1.0, "with layers=mix: factor of the mix")
    dtype: Literal["float32", "float16"] = option("float32", "type of the numbers in the file")
    tokenize: bool = option(
        False, "the text is raw: split it; keys are then numbers of sentences, not of lines (extra `text`)"
    )
    language: str = option("en", "language code for the rules of the tokeniser")
    sentence_index: bool = option(True, "write the sentences into .h5 and .npz too, as sentence_to_index of AllenNLP")
    workers: int = option(1, "processes that share the parts of the input; 0: one a core", 0)
    threads: int | None = option(None, "CPU threads of each process [null: the cores divided by the processes]")
    task: int = option(0, "number of this task in a job array, from 0")
    tasks: int = option(1, "tasks that share the parts; then the same command without task= and tasks= writes the file")
    accelerator: ApplyingAccelerator = option("auto", APPLYING_ACCELERATOR)
    precision: Precision = option("32-true", PRECISION)
    overwrite: bool = option(False, "replace output=, and unfinished work that was started with other options")

    def __post_init__(self) -> None:
        require_bounds(self)
        require(0 <= self.task < self.tasks, f"task={self.task} must be from 0 to tasks - 1, which is {self.tasks - 1}")


@dataclass
class ScoreConfig:
    checkpoint: str = option("", "checkpoint file, a run's folder, or an exported model with its softmax")
    input: list[str] = option([], "files, globs, folders: one tokenised sentence a line; - is standard input")
    output: str = option(
        "", "file to write: .jsonl (one line a sentence) or .tsv (one line a word) [default: print a table]"
    )
    tokenize: bool = option(False, "the text is raw: split it into sentences and words (extra `text`)")
    language: str = option("en", "language code for the rules of the tokeniser")
    accelerator: ApplyingAccelerator = option("auto", APPLYING_ACCELERATOR)
    precision: Precision = option("32-true", PRECISION)
    threads: int | None = option(None, "CPU threads [null: the default of torch]")


@dataclass
class NeighborsConfig:
    checkpoint: str = option("", "checkpoint file, a run's folder, or a model that was exported or imported")
    corpus: list[str] = option([], "files, globs, folders to search: one tokenised sentence a line")
    word: str = option("", "the word whose occurrences are compared")
    sentence: str = option("", "its context: a tokenised sentence with the word")
    occurrence: int = option(1, "which occurrence of the word in the sentence, from 1", 1)
    any: bool = option(False, "compare with the occurrences of all words, not of this word only")
    k: int = option(10, "neighbours to show", 1)
    layer: str = option("top", "top, average, or a layer's number")
    index: str = option("", "folder for the vectors of the corpus [default: beside the first file]")
    approximate: str = option(
        "auto", "with any=true: search with faiss (extra `neighbors`): auto (over 5 M words), true or false"
    )
    output: str = option("", "write the result as JSON to this file")
    workers: int = option(1, "processes that embed the corpus; 0: one a core", 0)
    threads: int | None = option(None, "CPU threads of each process [null: the cores divided by the processes]")
    accelerator: ApplyingAccelerator = option("auto", APPLYING_ACCELERATOR)
    precision: Precision = option("32-true", PRECISION)
    overwrite: bool = option(False, "replace an index that was made of another corpus or model")

    def __post_init__(self) -> None:
        require_bounds(self)
        self.approximate = self.approximate.lower()
        require(self.approximate in ("auto", "true", "false"), "approximate= must be auto, true or false")


@dataclass
class SlurmConfig:
    copy: str = option("", "write the scripts into DIR/slurm/")
    overwrite: bool = option(False, "replace scripts in DIR/slurm/ that have other content")

    def __post_init__(self) -> None:
        require(bool(self.copy), "copy= is missing: give a folder for the scripts, as in: elmo slurm copy=DIR")
