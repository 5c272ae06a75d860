"""The types of a checkpoint file and its record; content of other types or versions is refused."""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Len, Predicate
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.typed_json import Count, FileName, Sha256, check_value, load_json, parse_json
from pipeline.config.schema import ConfigError
from pipeline.train.run_dir.records import UnixTime
from pipeline.version import __version__

FORMAT = 1


@dataclass(frozen=True)
class Record:
    """Facts about a checkpoint that can be read without opening it.

    val_perplexity: of the validation at this step. record_sha256: of the other fields; None in the oldest records.
    """

    step: Count
    file: FileName
    bytes: Count
    sha256: Sha256
    val_perplexity: Annotated[float, Ge(0)] | None
    unix_time: UnixTime
    record_sha256: Sha256 | None = None

    @classmethod
    def sealed(cls, *values: Any) -> "Record":
        record = cls(*values)
        return replace(record, record_sha256=record.seal())

    def seal(self) -> str:
        fields = {name: value for name, value in asdict(self).items() if name != "record_sha256"}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_record(path: Path) -> Record:
    """Return the record at `path` in a folder of checkpoints. Raises ConfigError for one that is damaged."""
    record = read_sealed(path)
    if path.name != f"step-{record.step:08d}.json" or record.file != f"{path.stem}.ckpt":
        raise ConfigError(f"{path} is the record of another checkpoint: step {record.step:,} of file {record.file}")
    return record


def read_sealed(path: Path) -> Record:
    """Return the record at `path`, under whatever name. Raises ConfigError for one that is damaged."""
    record: Record = load_json(path, Record, "remove it with its checkpoint, or put back a copy of both", ConfigError)
    if record.record_sha256 not in (None, record.seal()):
        raise ConfigError(f"{path} was changed since it was written; put back a copy of it and of its checkpoint")
    return record


def parse_record(data: bytes, name: str) -> Record:
    """Return the record that `data`, read from the file `name`, holds. Raises ConfigError for one that is damaged."""
    record: Record = parse_json(data, Record, name, "remove it with its checkpoint", ConfigError)
    own, stem = f"step-{record.step:08d}", name.rpartition("/")[2].removesuffix(".json")
    if record.record_sha256 != record.seal() or record.file != f"{own}.ckpt" or stem != own:
        raise ConfigError(f"{name} was changed since it was written; remove it with its checkpoint")
    return record


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _names_a_dataset(identity: dict[str, Any]) -> bool:
    return isinstance(identity.get("dataset"), str)


def _is_float32_tensor(value: Any) -> bool:
    return _is_tensor(value, "float32")


def _is_row_of_bytes(value: Any) -> bool:
    return _is_tensor(value, "uint8") and value.dim() == 1


def _is_row_of_counts(value: Any) -> bool:
    return _is_tensor(value, "int64") and value.dim() == 1


def _is_tensor(value: Any, dtype: str) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided and value.dtype == getattr(torch, dtype)


Plain = Annotated[dict[str, Any], Predicate(_is_plain)]
Weights = Annotated[Any, Predicate(_is_float32_tensor)]


class State(TypedDict):
    """State of an LSTM layer for all lanes: h (2, lanes, P) and c (2, lanes, H)."""

    h: Weights
    c: Weights


class TargetWords(TypedDict):
    """words: UTF-8, one a line. counts (V,)."""

    words: Annotated[Any, Predicate(_is_row_of_bytes)]
    counts: Annotated[Any, Predicate(_is_row_of_counts)]


class Elmo(TypedDict):
    """The fields beside Lightning's. version: of elmo-pipeline; the oldest checkpoints have none."""

    format: int
    version: NotRequired[str]
    identity: Annotated[Plain, Predicate(_names_a_dataset)]
    config: Plain
    vocabulary: TargetWords
    states: list[State]
    tokens: Count
    bad_steps: Count
    bad_steps_in_a_row: Count
    validations: NotRequired[list[Annotated[list[int | float], Len(2, 2)]]]


class ParameterGroup(TypedDict):
    """The numbers of the parameters in one group of the optimizer."""

    params: list[Count]


class OptimizerState(TypedDict):
    """state: the tensors of a rule in step/optimizer.py, by the number of their parameter."""

    state: dict[int, dict[str, Any]]
    param_groups: list[ParameterGroup]


class Content(TypedDict):
    """The content of a checkpoint file."""

    global_step: Count
    state_dict: dict[str, Weights]
    optimizer_states: Annotated[list[OptimizerState], Len(1, 1)]
    elmo: Elmo


def check_content(path: Path, content: Any) -> None:
    """Raise ConfigError where `content`, read from `path`, is not what a checkpoint of this version holds."""
    if not isinstance(content, dict) or "state_dict" not in content or not isinstance(content.get("elmo"), dict):
        raise ConfigError(f"{path} is not a checkpoint of this project; use one that `elmo pretrain` wrote")
    found = content["elmo"].get("format")
    if type(found) is int and found != FORMAT:
        raise ConfigError(
            f"{path} has checkpoint format {found}, written by {writer_of(content)}, and this elmo-pipeline "
            f"{__version__} reads format {FORMAT}; use it with the version that wrote it"
        )
    check_value(content, Content, str(path), "use another checkpoint of the run", ConfigError)
    words, counts = content["elmo"]["vocabulary"]["words"], content["elmo"]["vocabulary"]["counts"]
    if int((words == ord("\n")).sum()) + 1 != len(counts):
        raise ConfigError(f"{path} is damaged (its words are not {len(counts)}); use another checkpoint of the run")
    claimed = sum(4 * tensor.numel() for tensor in content["state_dict"].values())
    if claimed > path.stat().st_size:
        raise ConfigError(f"{path} is damaged (its tensors are larger than itself); use another checkpoint of the run")


def writer_of(content: dict[str, Any]) -> str:
    """Return the name and version of the program that wrote a checkpoint."""
    version = content["elmo"].get("version")
    return f"elmo-pipeline {version}" if isinstance(version, str) else "an earlier elmo-pipeline"
