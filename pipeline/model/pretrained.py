"""A trained biLM as a folder to keep and to share: weights, softmax and vocabulary where known, and their story.

A folder counts once config.json, which is written last, holds the size and sha256 of every other file.
What each file holds: docs/reference/formats.md.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.files import atomic_path, sha256_of, sync_folder, write_bytes, write_json, write_npy
from pipeline import __version__
from pipeline.config import ConfigError, ModelConfig, require, to_dict
from pipeline.model.bilm import BiLM, num_parameters
from pipeline.model.hub import HubId, fetch, model_card
from pipeline.read_config import from_dict

FORMAT, FORMAT_VERSION = "elmo-pipeline/pretrained", 1
CONFIG, CARD = "config.json", "README.md"
MODEL, SOFTMAX, VOCABULARY, COUNTS = "model.safetensors", "softmax.safetensors", "vocabulary.txt", "counts.npy"
_KEYS = ("model", "vocabulary_size", "facts", "training", "files")
_SOFTMAX_PREFIX = "softmax."


@dataclass
class Pretrained:
    """words (V): target vocabulary, <S> </S> <UNK> first; counts (V,) int64 of it in training; None where unknown.

    facts: where the weights come from. training: the settings of the run that made them, None where unknown.
    """

    path: Path
    bilm: BiLM
    words: list[str] | None
    counts: np.ndarray | None
    facts: dict[str, Any]
    training: dict[str, Any] | None

    @property
    def config(self) -> ModelConfig:
        return self.bilm.config


def save_pretrained(
    folder: str | Path, bilm: BiLM, *, words: list[str] | None = None, counts: np.ndarray | None = None,
    facts: dict[str, Any] | None = None, training: dict[str, Any] | None = None, overwrite: bool = False,
) -> list[Path]:  # fmt: skip
    """`folder` holds the model, in float32; returns its files. A crash leaves a folder that does not load.

    Raises ConfigError where the folder holds something else, or another model and not overwrite.
    """
    folder = Path(folder).expanduser()
    _check_vocabulary(bilm, words, counts)
    claim_folder(folder, (CONFIG, MODEL, SOFTMAX, VOCABULARY, COUNTS, CARD), marker=CONFIG, overwrite=overwrite)
    softmax = {name: tensor for name, tensor in bilm.state_dict().items() if name.startswith(_SOFTMAX_PREFIX)}
    names = [MODEL]
    _write_tensors(folder / MODEL, {n: t for n, t in bilm.state_dict().items() if n not in softmax})
    if softmax:
        names.append(SOFTMAX)
        _write_tensors(folder / SOFTMAX, softmax)
    if words is not None:
        names.append(VOCABULARY)
        write_bytes(folder / VOCABULARY, "".join(f"{word}\n" for word in words).encode())
    if counts is not None:
        names.append(COUNTS)
        write_npy(folder / COUNTS, np.asarray(counts, np.int64))
    card = model_card(bilm.config, num_parameters(bilm), None if words is None else len(words), facts or {})
    write_bytes(folder / CARD, card.encode())
    described = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "version": __version__, "model": to_dict(bilm.config),
        "vocabulary_size": None if words is None else len(words), "facts": facts or {}, "training": training,
        "files": {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256_of(folder / n)} for n in names},
    }  # fmt: skip
    write_json(folder / CONFIG, described)
    return [folder / name for name in [*names, CARD, CONFIG]]


def load_pretrained(location: str | Path, *, softmax: bool = True, device: torch.device | str = "cpu") -> Pretrained:
    """The model in a folder, or on the hub as ORG/NAME or ORG/NAME@REVISION (extra `hub`); ready to use, frozen.

    softmax: read it where there is one; without, a gigabyte may stay unread. Raises ConfigError.
    """
    folder = _locate(str(location), softmax)
    described = _read_config(folder)
    softmax = softmax and SOFTMAX in described["files"]
    for name in described["files"]:
        if name != SOFTMAX or softmax:
            _check_file(folder / name, described["files"][name])
    words = _read_words(folder, described) if VOCABULARY in described["files"] else None
    counts = np.load(folder / COUNTS, allow_pickle=False) if COUNTS in described["files"] else None
    with torch.device("meta"):
        bilm = BiLM(_read_model_config(folder, described), len(words or []) if softmax else 0)
    files = [MODEL, SOFTMAX] if softmax else [MODEL]
    expected = bilm.state_dict()
    state = {k: v for name in files for k, v in _read_tensors(folder / name, expected, device).items()}
    bilm.load_state_dict(state, assign=True)
    return Pretrained(
        folder, bilm.eval().requires_grad_(False), words, counts, described["facts"], described["training"]
    )


def claim_folder(folder: Path, names: tuple[str, ...], *, marker: str, overwrite: bool) -> None:
    """`folder` is there and holds no whole model, as `marker` is gone. names: the files that will stand in it."""
    require(not folder.exists() or folder.is_dir(), f"output={folder} is a file; give a folder")
    held = {path.name for path in folder.iterdir()} if folder.exists() else set()
    require(overwrite or marker not in held, f"output={folder} holds a model; give another folder, or overwrite=true")
    others = sorted(name for name in held - set(names) if not name.startswith("."))
    require(
        overwrite or not others,
        f"output={folder} holds other things ({', '.join(others[:3])}); give a new folder, or overwrite=true",
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / marker).unlink(missing_ok=True)
    for name in names:
        for left in [folder / name, *folder.glob(f".{name}.*.tmp")]:  # by a killed export
            left.unlink(missing_ok=True)
    sync_folder(folder)


def is_pretrained(folder: Path) -> bool:
    """Whether a folder is of this format, or was on the way to be."""
    return (folder / CONFIG).is_file() or (folder / MODEL).is_file()


def _check_vocabulary(bilm: BiLM, words: list[str] | None, counts: np.ndarray | None) -> None:
    if bilm.has_softmax:
        require(words is not None and counts is not None, "a model with a softmax is saved with its words and counts")
        size = bilm.softmax.vocab_size
        require(len(words or []) == size, f"{len(words or [])} words do not fit a softmax of {size}")
    if counts is not None:
        require(words is not None and len(words) == len(counts), "words and counts do not have the same length")
    bad = next((w for w in words or [] if "\n" in w), None)
    require(bad is None, f"the word {bad!r} holds a line end: a vocabulary file has one word a line")


def _locate(location: str, softmax: bool) -> Path:
    path = Path(location).expanduser()
    if path.is_dir():
        return path
    hub_id = HubId.parse(location)
    if hub_id is None:
        raise ConfigError(f"{location}: no such folder; give one that `elmo export` wrote, or ORG/NAME on the hub")
    return fetch(hub_id, [CONFIG, MODEL, VOCABULARY, COUNTS, *([SOFTMAX] if softmax else [])])


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        why = "the export was cut short" if (folder / MODEL).exists() else "it is no exported model"
        raise ConfigError(f"{folder} has no {CONFIG} ({why}); export it again with `elmo export`")
    try:
        described = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{path} is not JSON ({error}); copy or export the model again") from None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise ConfigError(
            f"{path} does not describe a model of this project (format {FORMAT}); for bilm-tf's or AllenNLP's files "
            "use `elmo import`"
        )
    require(
        described.get("format_version") == FORMAT_VERSION,
        f"{path} is of format version {described.get('format_version')}, this is {__version__}, which reads version "
        f"{FORMAT_VERSION}; use a version of elmo-pipeline that knows it",
    )
    lacking = [key for key in _KEYS if key not in described] or [n for n in [MODEL] if n not in described["files"]]
    require(not lacking, f"{path} lacks {', '.join(lacking)}; copy or export the model again")
    return described


def _read_model_config(folder: Path, described: dict[str, Any]) -> ModelConfig:
    from omegaconf.errors import OmegaConfBaseException

    try:
        return from_dict(ModelConfig, described["model"])
    except OmegaConfBaseException as error:
        reason = f"{error.full_key}: {str(error).splitlines()[0]}"
        raise ConfigError(f"{folder / CONFIG}, model: {reason}; export the model again") from None


def _check_file(path: Path, record: dict[str, Any]) -> None:
    require(path.is_file(), f"{path} is missing; copy or export the model again")
    size = path.stat().st_size
    require(size == record["bytes"], f"{path} has {size} bytes, not {record['bytes']}; copy or export the model again")
    require(sha256_of(path) == record["sha256"], f"{path} is damaged (another sha256); copy or export the model again")


def _read_words(folder: Path, described: dict[str, Any]) -> list[str]:
    words = (folder / VOCABULARY).read_bytes().decode().split("\n")[:-1]
    require(
        len(words) == described["vocabulary_size"],
        f"{folder / VOCABULARY} has {len(words)} words, not {described['vocabulary_size']}; export the model again",
    )
    return words


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as aside:
        try:
            save_file({n: t.detach().float().cpu().contiguous() for n, t in tensors.items()}, aside, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(None, str(error), str(path)) from None


def _read_tensors(path: Path, expected: dict[str, Tensor], device: torch.device | str) -> dict[str, Tensor]:
    """Raises ConfigError where the file does not hold just those of `expected` that belong in it."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path, str(device))
    except SafetensorError as error:
        raise ConfigError(f"{path} is not a readable safetensors file ({error}); export the model again") from None
    in_softmax = path.name == SOFTMAX
    wanted = {name: tuple(t.shape) for name, t in expected.items() if name.startswith(_SOFTMAX_PREFIX) == in_softmax}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        require(
            wanted.get(name) == found.get(name),
            f"{path}: {name} is {found.get(name, 'absent')}, and {wanted.get(name, 'absent')} by {CONFIG}; "
            "export the model again",
        )
    return tensors
