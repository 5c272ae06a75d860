"""Every option of a training run, with its default, unit and meaning. Defaults are the paper's.

YAML files hold differences from these only; pipeline/config/load.py reads them.
"""

from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from data_prep.dataset.locations import path_on_this_node

Accelerator: TypeAlias = Literal["auto", "cpu", "gpu"]
ACCELERATOR = "a GPU is used by CUDA: MPS has no float64, which perplexity and statistics need"
Precision: TypeAlias = Literal["32-true", "bf16-mixed"]


class ConfigError(ValueError):
    """A setting that cannot be used: value, rule and remedy in one sentence."""


def option(default: Any, meaning: str, at_least: int | None = None) -> Any:
    """A field with the help text that `elmo COMMAND -h` prints. at_least: lower bound, for `require_bounds`."""
    metadata = {"meaning": meaning, "at_least": at_least}
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def require_bounds(config: Any, section: str = "") -> None:
    """Raise ConfigError for an option of `config` below its `at_least`. section: before its name, as in "data."."""
    for f in fields(config):
        least, value = f.metadata.get("at_least"), getattr(config, f.name)
        require(least is None or value is None or value >= least, f"{section}{f.name}={value} must be at least {least}")


@dataclass
class RunConfig:
    dir: str = option("runs/elmo", "folder of the run: checkpoints, logs, wandb files; an existing run is resumed")
    name: str = option("", "name in wandb [default: WANDB_NAME, else the folder's name]")
    seed: int = option(1, "seed of weights, order, candidates and dropout")

    def __post_init__(self) -> None:
        require(0 <= self.seed < 2**31, f"run.seed={self.seed} must be from 0 to 2147483647")


@dataclass
class DataConfig:
    path: str = option("", "dataset made by `elmo prep`: a folder, or a URL of file, http, https, s3, gs or hf")
    cache_dir: str | None = option(None, "cache of remote datasets [null: $ELMO_CACHE, else ~/.cache/elmo-pipeline]")
    stage_dir: str = option("", "folder to which a node copies its shards, for example $SLURM_TMPDIR [default: none]")
    lanes: int = option(384, "rows of the global batch, divided among all ranks [the paper: 128 on each of 3 GPUs]", 1)
    window: int = option(20, "tokens of each lane in one step (truncated back-propagation through time)", 1)
    order: Literal["shared", "per_direction"] = option(
        "shared", "shared: both directions read the same text in a step; per_direction: other text, as bilm-tf (slower)"
    )
    cold_start_share: float = option(
        0.01, "share of lanes that start each step from the zero state, as single sentences do [the paper: 0]"
    )
    vocab_size: int = option(793_471, "words of the softmax: the lexicon's most frequent, with <S>, </S> and <UNK>")
    vocab_min_count: int = option(3, "lowest count in the training split for a word of the softmax", 1)
    workers: int = option(1, "loader processes of each rank; 0: the training process makes its batches", 0)

    def __post_init__(self) -> None:
        require_bounds(self, "data.")
        require(self.lanes <= 1 << 20, f"data.lanes={self.lanes} must be at most {1 << 20}")
        share = self.cold_start_share
        require(0 <= share <= 1, f"data.cold_start_share={share} must be from 0 to 1; 0.01 is one lane in a hundred")
        require(self.vocab_size >= 4, f"data.vocab_size={self.vocab_size} must be at least 4: <S>, </S>, <UNK>, a word")

    @property
    def tokens_per_step(self) -> int:
        return self.lanes * self.window

    @property
    def staged_at(self) -> Path | None:
        """stage_dir on this node; variables of the environment are the node's."""
        return path_on_this_node(self.stage_dir, "data.stage_dir") if self.stage_dir else None


@dataclass
class ModelConfig:
    character_dim: int = option(16, "size of a character's embedding", 1)
    filters: list[list[int]] = option(
        [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]],
        "convolutions over characters: a list of [width in characters, number of filters]",
    )
    activation: Literal["relu", "tanh"] = option("relu", "applied after the maximum over positions")
    max_characters: int = option(50, "character ids of a word, both word bounds included; longer words are cut")
    num_highway: int = option(2, "highway layers after the convolutions", 0)
    lstm_dim: int = option(4096, "cells of an LSTM layer in each direction", 1)
    projection_dim: int = option(512, "outputs of an LSTM layer in each direction", 1)
    num_layers: int = option(2, "LSTM layers", 1)
    cell_clip: float | None = option(3.0, "limit of the cell's values; null: no limit")
    proj_clip: float | None = option(3.0, "limit of a layer's outputs; null: no limit")
    skip_connections: bool = option(True, "add a layer's input to its output, from the second layer on")
    dropout: float = option(0.1, "share of values dropped before each layer and before the softmax")

    def __post_init__(self) -> None:
        require_bounds(self, "model.")
        require(0 <= self.dropout < 1, f"model.dropout={self.dropout} must be in [0, 1)")
        for name in ("cell_clip", "proj_clip"):
            clip = getattr(self, name)
            require(clip is None or clip > 0, f"model.{name}={clip} must be positive; use null for no clip")
        good = all(len(f) == 2 and 1 <= f[0] <= self.max_characters and f[1] >= 1 for f in self.filters)
        require(
            bool(self.filters) and good,
            f"model.filters={self.filters} must be [width, number] pairs, each width from 1 to "
            f"model.max_characters={self.max_characters}",
        )
        require(4 <= self.max_characters <= 4096, f"model.max_characters={self.max_characters} must be from 4 to 4096")


@dataclass
class SoftmaxConfig:
    kind: Literal["sampled", "full"] = option(
        "sampled", "training loss; full: exact, but its cost grows with the vocabulary"
    )
    num_samples: int = option(8192, "candidates drawn in each step", 1)
    candidates: Literal["shared", "per_direction"] = option(
        "shared", "shared: both directions use the same candidates; per_direction: other ones"
    )
    init: Literal["normal", "unigram"] = option("normal", "normal: as bilm-tf; unigram: biases by frequency, rows zero")
    affixes: bool = option(False, "words that begin, end or look alike also learn together; for sampled only")

    def __post_init__(self) -> None:
        require_bounds(self, "softmax.")
        is_possible = self.kind == "sampled" or not self.affixes
        require(is_possible, "softmax.kind=full has no shared rows; set softmax.affixes=false, or softmax.kind=sampled")


@dataclass
class OptimizerConfig:
    name: Literal["adagrad", "adam", "adam-adagrad", "muon"] = option(
        "adagrad",
        "adagrad (the paper), adam, adam-adagrad (softmax: adagrad) or muon (adam-adagrad, but muon for the matrices)",
    )
    lr: float | int | Literal["auto"] = option(0.2, "learning rate; auto: by optimizer, width and steps")
    softmax_lr: float = option(0.2, "adam-adagrad, muon: learning rate of the softmax, with the same schedule")
    initial_accumulator: float = option(1.0, "adagrad: initial sum of squared gradients")
    beta1: float = option(0.9, "adam: decay of the mean")
    beta2: float = option(0.999, "adam: decay of the square")
    eps: float = option(1e-8, "adam: added to the denominator")
    momentum: float = option(0.9, "muon: decay of the mean of the gradients")
    clip_norm: float | None = option(10.0, "limit of the global norm of the gradients of loss x window; null: no limit")
    schedule: Literal["constant", "linear", "cosine"] = option(
        "constant", "learning rate during the run; linear and cosine: it falls to 0"
    )
    warmup_steps: int = option(0, "steps in which the learning rate rises from 0", 0)

    def __post_init__(self) -> None:
        require_bounds(self, "optimizer.")
        for name, rate in (("lr", self.lr), ("softmax_lr", self.softmax_lr)):
            require(rate == "auto" or rate > 0, f"optimizer.{name}={rate} must be positive")
        clip = self.clip_norm
        require(clip is None or clip > 0, f"optimizer.clip_norm={clip} must be positive; use null for no clip")
        require(0 <= self.momentum < 1, f"optimizer.momentum={self.momentum} must be in [0, 1); 0.9 is usual")
        require(self.initial_accumulator > 0, "optimizer.initial_accumulator must be positive: it is divided by")


@dataclass
class TrainConfig:
    epochs: float = option(10.0, "passes over the training split; fractions are allowed")
    max_steps: int | None = option(None, "end after this number of steps, if that comes first", 1)
    lanes_at_once: int | None = option(
        None, "lanes that a rank computes at once; fewer need less memory (gradient accumulation) [null: all]", 1
    )
    precision: Precision | Literal["auto"] = option(
        "32-true", "bf16-mixed: matrix products in bfloat16, all else in float32; auto: the faster on this machine"
    )
    exchange: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "type of exchanged gradients; auto: bfloat16 with bf16-mixed, else float32"
    )
    accelerator: Accelerator = option("auto", ACCELERATOR)
    devices: int = option(1, "processes on each node: one for each GPU", 1)
    nodes: int = option(1, "nodes", 1)
    threads: int | None = option(None, "CPU threads of each process [null: the cores divided by the processes]", 1)
    log_every_steps: int = option(50, "steps between logged metrics", 1)
    norms_every_steps: int | None = option(
        None,
        "steps between norms of gradients, weights and updates by group, with histograms of layers [null: never]",
        1,
    )
    validate_every_steps: int = option(5000, "steps between validations by full softmax on the held-out split", 1)
    validate_tokens: int | None = option(None, "held-out tokens to score in each direction, about [null: all]", 1)
    patience: int | None = option(
        None, "end after this number of validations in a row without improvement; the best is saved [null: never]", 1
    )
    hang_seconds: float | None = option(1800.0, "dump all stacks and end if no step ends for this time [null: never]")
    start_seconds: float | None = option(3600.0, "the same as train.hang_seconds, for the first step")
    max_bad_steps: int = option(20, "end after this number of steps in a row whose loss or gradient is not finite", 1)

    def __post_init__(self) -> None:
        require(self.epochs > 0, f"train.epochs={self.epochs} must be positive")
        require_bounds(self, "train.")

    @property
    def exchanges_bfloat16(self) -> bool:
        return self.exchange == "bfloat16" or (self.exchange == "auto" and self.precision == "bf16-mixed")


@dataclass
class CheckpointConfig:
    every_steps: int = option(1000, "steps between checkpoints; the last step of a run is always saved", 1)
    mirror: str = option("", "URL (s3, gs) to which checkpoints are copied; an empty run.dir resumes from it")
    keep_last: int = option(2, "newest checkpoints to keep, besides the best by held-out perplexity; at least 2")

    def __post_init__(self) -> None:
        require_bounds(self, "checkpoint.")
        require(
            self.keep_last >= 2,
            f"checkpoint.keep_last={self.keep_last} must be at least 2, so that one is left if the newest is damaged",
        )


@dataclass
class EvaluateConfig:
    lanes: int = option(32, "lanes that held-out text is cut into; each starts from zero; 1: strict reading order", 1)
    lanes_at_once: int = option(32, "lanes computed together; changes memory and speed, not the result", 1)
    window: int = option(64, "tokens of a lane computed together; changes memory and speed, not the result", 1)

    def __post_init__(self) -> None:
        require_bounds(self, "evaluate.")
        tokens = self.lanes_at_once * self.window
        fits = f"evaluate.lanes_at_once x evaluate.window is {tokens:,}; use at most {1 << 24:,}, which fit into memory"
        require(tokens <= 1 << 24, fits)


@dataclass
class WandbConfig:
    mode: Literal["auto", "online", "offline", "disabled"] = option(
        "auto", "auto: WANDB_MODE, else online with a key, else offline"
    )
    project: str | None = option(None, "wandb project [null: WANDB_PROJECT, else elmo]")
    entity: str | None = option(None, "wandb user or team [null: WANDB_ENTITY, else your own]")
    group: str | None = option(None, "wandb group [null: WANDB_RUN_GROUP, else name and id of the run]")
    tags: list[str] = option([], "wandb tags [empty: WANDB_TAGS]")
    notes: str | None = option(None, "wandb notes [null: WANDB_NOTES]")
    log_artifacts: bool = option(False, "record dataset and checkpoints as artifacts: path and hash, not their bytes")


def _sizes(lanes: int, devices: int) -> str:
    """Numbers of nodes, or else of ranks, over which the lanes divide; the largest few."""
    nodes = [str(n) for n in range(1, lanes // devices + 1) if lanes % (n * devices) == 0][-8:]
    ranks = [str(n) for n in range(1, lanes + 1) if lanes % n == 0][-8:]
    return f"{' or '.join(nodes)} nodes of {devices}" if nodes and devices > 1 else f"{' or '.join(ranks)} ranks"


@dataclass
class PretrainConfig:
    run: RunConfig = field(default_factory=RunConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    softmax: SoftmaxConfig = field(default_factory=SoftmaxConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        ranks = self.train.devices * self.train.nodes
        require(
            self.data.lanes % ranks == 0,
            f"data.lanes={self.data.lanes} does not divide over {ranks} ranks ({self.train.nodes} nodes x "
            f"{self.train.devices}); use {_sizes(self.data.lanes, self.train.devices)}, or use a multiple of "
            f"{ranks} lanes, which is another run",
        )
        share, at_once = self.data.lanes // ranks, self.train.lanes_at_once
        require(
            at_once is None or share % at_once == 0,
            f"train.lanes_at_once={at_once} does not divide the {share} lanes of a rank; use a divisor of {share}",
        )
        is_kept = not self.softmax.affixes or self.optimizer.name != "adam"  # untouched shared rows keep their values
        require(is_kept, "optimizer.name=adam is not for softmax.affixes=true; use adam-adagrad, or muon")

    @property
    def lane_groups(self) -> int:
        """Groups of lanes that a rank computes one after the other in a step (gradient accumulation)."""
        share = self.data.lanes // (self.train.devices * self.train.nodes)
        return share // (self.train.lanes_at_once or share)


def to_dict(config: Any) -> dict[str, Any]:
    """Plain dicts, lists and scalars: what a checkpoint and wandb hold."""
    return {f.name: _plain(getattr(config, f.name)) for f in fields(config)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_dict(value)
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
