"""config.json of a model folder: entries that decide how the model is read are typed, others are kept as they are."""

import hashlib
import json
import logging
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.files import DataError
from data_prep.dataset.typed_json import Count, Sha256, load_json, parse_json
from pipeline.config.schema import ConfigError, ModelConfig, require
from pipeline.model.formats.weight_checks import LARGEST_SIZE
from pipeline.version import __version__

log = logging.getLogger(__name__)
FORMAT, FORMAT_VERSION = "elmo-pipeline/pretrained", 2
READ_VERSIONS = (1, 2)  # 1 has no model_sha256
CONFIG, CARD = "config.json", "README.md"
MODEL, SOFTMAX, VOCABULARY, COUNTS = "model.safetensors", "softmax.safetensors", "vocabulary.txt", "counts.npy"
CHARACTERS, WORDS = "characters.txt", "words.txt"  # of a model with a dictionary
_REMEDY = "copy or export the model again"


class FileRecord(TypedDict):
    bytes: Count
    sha256: Sha256


@dataclass(frozen=True)
class FolderConfig:
    """model: the keys of `model.*`, as in the file. facts, training: information, never needed to compute."""

    format_version: int
    model: dict[str, Any]
    vocabulary_size: Count | None
    facts: dict[str, Any]
    training: dict[str, Any] | None
    files: dict[
        Literal[
            "model.safetensors", "softmax.safetensors", "vocabulary.txt", "counts.npy", "characters.txt", "words.txt"
        ],
        FileRecord,
    ]  # fmt: skip
    model_sha256: Sha256 | None = None


_Number = Annotated[float, Ge(0), Le(1e300)]


class Perplexity(TypedDict):
    both: _Number
    forward: NotRequired[_Number]
    backward: NotRequired[_Number]
    tokens: NotRequired[Count]
    lanes: NotRequired[Count]


class Pretraining(TypedDict):
    """The text that a model was trained on before it was fine-tuned."""

    source: str | None
    corpus: str | None
    corpus_fingerprint: str | None
    tokens: Count | None


_FACTS: dict[str, Any] = {
    "source": str | None, "corpus": str | None, "corpus_fingerprint": str | None, "tokens": Count | None,
    "step": Count, "perplexity": Perplexity | None, "pretrained_on": list[Pretraining], "trained_with": str | None,
    "exported_with": str | None, "git_revision": str | None,
}  # fmt: skip


@dataclass(frozen=True)
class _Head:
    format: Any = None
    format_version: Any = None


def read_folder_config(folder: Path) -> FolderConfig:
    """Return the config of a model folder. Raises ConfigError if it is missing, damaged or of another version."""
    path = folder / CONFIG
    if not path.is_file():
        raise ConfigError(_why_absent(folder))
    head = load_json(path, _Head, _REMEDY, ConfigError)
    require(
        head.format == FORMAT,
        f"{path} does not describe a model of this project (format {FORMAT}); for bilm-tf's or AllenNLP's files use "
        "`elmo import`",
    )
    require(
        type(head.format_version) is int and head.format_version in READ_VERSIONS,
        f"{path} is of format version {_shown(head.format_version)}, this is elmo-pipeline {__version__}, which reads "
        f"versions {' and '.join(map(str, READ_VERSIONS))}; use a version of elmo-pipeline that knows it",
    )
    found: FolderConfig = load_json(path, FolderConfig, _REMEDY, ConfigError)
    wanted = [MODEL, *([VOCABULARY, COUNTS] if SOFTMAX in found.files else [])]
    for name in wanted:
        require(name in found.files, f"{path} names no {name} under `files`; {_REMEDY}")
    require(
        found.format_version == 1 or found.model_sha256 == model_sha256(found.model),
        f"{path}: the settings under `model` are not those that were written (model_sha256 is of others), and weights "
        f"mean something else under other settings; {_REMEDY}",
    )
    return found


def model_sha256(model: dict[str, Any]) -> str:
    """Return the hash that detects changes of a model's settings."""
    return hashlib.sha256(json.dumps(model, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def model_config(folder: Path, model: dict[str, Any]) -> ModelConfig:
    """Return the settings of the network. A missing key gets its default; an unknown key is refused."""
    name = f"{folder / CONFIG}, model,"
    unknown = sorted(model.keys() - {field.name for field in fields(ModelConfig)})
    require(
        not unknown,
        f"{name} has the key {_shown(unknown[0]) if unknown else ''}, which elmo-pipeline {__version__} does not know; "
        "use a version that knows it",
    )
    config: ModelConfig = parse_json(json.dumps(model).encode(), ModelConfig, name, _REMEDY, ConfigError)
    sizes = {key: value for key, value in vars(config).items() if type(value) is int}
    for key, size in sizes.items() | {("filters", size) for pair in config.filters for size in pair}:
        require(size < LARGEST_SIZE, f"{name} {key} is {_shown(size)}, too large to be a size; {_REMEDY}")
    for key in ("cell_clip", "proj_clip"):
        clip = getattr(config, key)
        require(clip is None or math.isfinite(clip), f"{name} {key}={clip} must be finite; {_REMEDY}")
    return config


def known_facts(facts: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the facts that have the right type; log a warning for each of the others. name: of the file."""
    kept = dict(facts)
    for key, schema in _FACTS.items():
        if key in kept:
            try:
                parse_json(json.dumps(kept[key]).encode(), schema, f"{name}: facts.{key}", "it is left out")
            except DataError as error:
                log.warning("%s", error)
                del kept[key]
    return kept


def _why_absent(folder: Path) -> str:
    if (folder / MODEL).exists():
        return f"{folder} has no {CONFIG} (the export was cut short); export it again with `elmo export`"
    if (folder / "run.json").exists() or (folder / "checkpoints").is_dir():
        return (
            f"{folder} is a run's folder, no exported model; make one of its best checkpoint with "
            f"`elmo export checkpoint={folder} output=DIR`, and give DIR"
        )
    if (folder / "options.json").is_file():
        return (
            f"{folder} holds bilm-tf's or AllenNLP's files; make a model of them with "
            f"`elmo import options={folder / 'options.json'} weights=FILE output=DIR`, and give DIR"
        )
    return (
        f"{folder} has no {CONFIG} (it is no exported model); give a folder that `elmo export` or `elmo import` wrote"
    )


def _shown(value: Any) -> str:
    return repr(value)[:80]
