"""A trained biLM as a folder: weights, softmax and vocabulary if known, and where they come from.

config.json is written last and holds the size and sha256 of every other file; a folder without it is not a model.
Contents of each file: docs/reference/formats.md.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_prep.dataset.files import (
    atomic_path,
    map_npy,
    remove_temporaries_of,
    sha256_of,
    sync_folder,
    write_bytes,
    write_json,
    write_npy,
)
from data_prep.dataset.lexicon import SPECIALS
from data_prep.dataset.locations import local_path
from pipeline.config.schema import ConfigError, ModelConfig, require
from pipeline.model.bilm import BiLM, num_parameters
from pipeline.model.formats.dictionary_files import DICTIONARY, file_contents, model_section, with_dictionary
from pipeline.model.formats.folder_config import (
    CARD,
    CHARACTERS,
    CONFIG,
    COUNTS,
    FORMAT,
    FORMAT_VERSION,
    MODEL,
    SOFTMAX,
    VOCABULARY,
    WORDS,
    FileRecord,
    FolderConfig,
    known_facts,
    model_config,
    model_sha256,
    read_folder_config,
)  # fmt: skip
from pipeline.model.formats.hub import HubId, fetch, model_card, upload
from pipeline.model.formats.weight_checks import as_float32, check_finite, check_shapes, parameter_shapes
from pipeline.model.language_model import LanguageModel
from pipeline.version import __version__

_SOFTMAX_PREFIX = "softmax."
_OPTIONAL = (VOCABULARY, COUNTS, CHARACTERS, WORDS)
_FLOATS = ("F32", "F16", "BF16", "F64")  # as safetensors names them


@dataclass
class Pretrained:
    """A loaded model. bilm: a LanguageModel if its softmax was read, otherwise a BiLM.

    words (V): target vocabulary, <S> </S> <UNK> first; counts (V,) int64: in training; None if unknown.
    facts: where the weights come from. training: the settings of the run that made them, None if unknown.
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
    facts: dict[str, Any] | None = None, training: dict[str, Any] | None = None, overwrite: bool = False, hub: str = "",
) -> list[Path]:  # fmt: skip
    """Write the model, in float32, into `folder`; return its files. After a crash the folder does not load.

    hub: the model's name on the hub, for the example in the model card. Raises ConfigError if the folder holds other
    files, or a model and overwrite is False, and for weights that are not finite.
    """
    folder = local_path(folder)
    _check_vocabulary(bilm, words, counts)
    state = {name: tensor.detach().float().cpu().contiguous() for name, tensor in bilm.state_dict().items()}
    check_finite(state, "this model")
    claim_folder(folder, (CONFIG, MODEL, SOFTMAX, *_OPTIONAL, CARD), marker=CONFIG, overwrite=overwrite)
    softmax = {name: tensor for name, tensor in state.items() if name.startswith(_SOFTMAX_PREFIX)}
    names = [MODEL]
    _write_tensors(folder / MODEL, {n: t for n, t in state.items() if n not in softmax})
    if softmax:
        names.append(SOFTMAX)
        _write_tensors(folder / SOFTMAX, softmax)
    if words is not None:
        names.append(VOCABULARY)
        write_bytes(folder / VOCABULARY, "".join(f"{word}\n" for word in words).encode())
    if counts is not None:
        names.append(COUNTS)
        write_npy(folder / COUNTS, np.asarray(counts, np.int64))
    for name, content in file_contents(bilm.config).items():
        names.append(name)
        write_bytes(folder / name, content)
    card = model_card(bilm.config, num_parameters(bilm), None if words is None else len(words), facts or {}, hub)
    write_bytes(folder / CARD, card.encode())
    model = model_section(bilm.config)
    described = {
        "format": FORMAT, "format_version": FORMAT_VERSION, "version": __version__,
        "model": model, "model_sha256": model_sha256(model),
        "vocabulary_size": None if words is None else len(words), "facts": facts or {}, "training": training,
        "files": {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256_of(folder / n)} for n in names},
    }  # fmt: skip
    write_json(folder / CONFIG, described)
    return [folder / name for name in [*names, CARD, CONFIG]]


def load_pretrained(location: str | Path, *, softmax: bool = True, device: torch.device | str = "cpu") -> Pretrained:
    """Load a model from a folder, or from the hub as ORG/NAME or ORG/NAME@REVISION (extra `hub`), frozen.

    softmax: read the softmax if there is one; it may be a gigabyte. Raises ConfigError.
    """
    folder = _locate(str(location), softmax)
    described = read_folder_config(folder)
    config = model_config(folder, {name: value for name, value in described.model.items() if name != DICTIONARY})
    for name in (SOFTMAX, *_OPTIONAL):
        require(
            name in described.files or not (folder / name).exists(),
            f"{folder / CONFIG} does not name {name}, which lies beside it; copy the model again, or remove {name}",
        )
    softmax = softmax and SOFTMAX in described.files
    for file, record in described.files.items():
        if file != SOFTMAX or softmax:
            _check_file(folder / file, record)
    config = with_dictionary(folder, described, config)
    words = _read_words(folder, described) if VOCABULARY in described.files else None
    counts = _read_counts(folder, described) if COUNTS in described.files else None
    vocab_size = len(words or []) if softmax else 0
    names = [MODEL, SOFTMAX] if softmax else [MODEL]
    for name in names:  # before the modules are made: sizes in config.json may be absurd
        wanted = parameter_shapes(config, vocab_size)
        of_file = ((n, shape) for n, shape in wanted if n.startswith(_SOFTMAX_PREFIX) == (name == SOFTMAX))
        check_shapes(_read_shapes(folder / name), of_file, str(folder / name), CONFIG)
    with torch.device("meta"):
        bilm = LanguageModel(config, vocab_size) if softmax else BiLM(config)
    state = {k: tensor for name in names for k, tensor in _read_tensors(folder / name, device).items()}
    bilm.load_state_dict(state, assign=True)
    facts = known_facts(described.facts, str(folder / CONFIG))
    return Pretrained(folder, bilm.eval().requires_grad_(False), words, counts, facts, described.training)


def push_to_hub(folder: str | Path, repository: str, *, revision: str | None = None, private: bool = True) -> str:
    """Upload a folder that `save_pretrained` wrote to the hub, as one commit; return the commit's address.

    Only the files that config.json names, the card and config.json are uploaded, whatever else the folder holds.
    private: whether a new repository is private.
    """
    folder = Path(os.path.expanduser(folder))
    names = [*read_folder_config(folder).files, CARD, CONFIG]
    return upload(folder, [str(name) for name in names], repository, revision, private)


def claim_folder(folder: Path, names: tuple[str, ...], *, marker: str, overwrite: bool) -> None:
    """Make `folder` ready for the files `names`: create it, delete `marker` first, then older files of these names.

    Raises ConfigError if the folder holds other files, or a model and overwrite is False.
    """
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
        (folder / name).unlink(missing_ok=True)
        remove_temporaries_of(folder / name)  # left by a killed export
    sync_folder(folder)


def is_pretrained(folder: Path) -> bool:
    """Return whether a folder holds a model of this format, or a part of one."""
    return (folder / CONFIG).is_file() or (folder / MODEL).is_file()


def _check_vocabulary(bilm: BiLM, words: list[str] | None, counts: np.ndarray | None) -> None:
    if isinstance(bilm, LanguageModel):
        require(words is not None and counts is not None, "a model with a softmax is saved with its words and counts")
        size = bilm.softmax.vocab_size
        require(len(words or []) == size, f"{len(words or [])} words do not fit a softmax of {size}")
    if counts is not None:
        require(words is not None and len(words) == len(counts), "words and counts do not have the same length")
    bad = next((w for w in words or [] if "\n" in w), None)
    require(bad is None, f"the word {bad!r} holds a line end: a vocabulary file has one word a line")


def _locate(location: str, softmax: bool) -> Path:
    path = local_path(location)
    if path.is_dir():
        return path
    require(
        not path.is_file(),
        f"{location} is a file, and a model is a folder; make one of a checkpoint with "
        f"`elmo export checkpoint={location} output=DIR`, and give DIR",
    )
    hub_id = HubId.parse(location)
    if hub_id is None:
        raise ConfigError(f"{location}: no such folder; give one that `elmo export` wrote, or ORG/NAME on the hub")
    return fetch(hub_id, [CONFIG, MODEL, *_OPTIONAL, *([SOFTMAX] if softmax else [])])


def _check_file(path: Path, record: FileRecord) -> None:
    require(path.is_file(), f"{path} is missing; copy or export the model again")
    size = path.stat().st_size
    require(size == record["bytes"], f"{path} has {size} bytes, not {record['bytes']}; copy or export the model again")
    require(sha256_of(path) == record["sha256"], f"{path} is damaged (another sha256); copy or export the model again")


def _read_words(folder: Path, described: FolderConfig) -> list[str]:
    path = folder / VOCABULARY
    try:
        words = path.read_bytes().decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error}); copy or export the model again") from None
    require(
        len(words) == described.vocabulary_size,
        f"{path} has {len(words)} words, not {described.vocabulary_size}; export the model again",
    )
    require(
        tuple(words[: len(SPECIALS)]) == tuple(SPECIALS),
        f"{path} begins with {words[:3]}, not with {', '.join(SPECIALS)}; export the model again",
    )
    return words


def _read_counts(folder: Path, described: FolderConfig) -> np.ndarray:
    path = folder / COUNTS
    try:
        counts = np.array(map_npy(path, np.int64))
    except Exception:  # DataError; for a damaged header also errors of Python's parser
        raise ConfigError(f"{path} holds no row of int64 counts; copy or export the model again") from None
    require(
        len(counts) == described.vocabulary_size and not (counts < 0).any(),
        f"{path} holds {len(counts)} counts for {described.vocabulary_size} words, or negative ones; export the model "
        "again",
    )
    return counts


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as aside:
        try:
            save_file(tensors, aside, {"format": "pt"})
        except SafetensorError as error:
            raise OSError(None, str(error), str(path)) from None


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes in the file's header, whose sizes safetensors has checked against the size of the file."""
    from safetensors import SafetensorError, safe_open

    shapes = {}
    try:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                require(
                    part.get_dtype() in _FLOATS,
                    f"{path}: {name} is of {part.get_dtype()}, and must be float32, float16, bfloat16 or float64; "
                    "export the model again",
                )
                shapes[name] = tuple(part.get_shape())
    except SafetensorError as error:
        raise ConfigError(f"{path} is not a readable safetensors file ({error}); export the model again") from None
    return shapes


def _read_tensors(path: Path, device: torch.device | str) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors = as_float32(load_file(path, str(device)), str(path))
    check_finite(tensors, str(path))
    return tensors
