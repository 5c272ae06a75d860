"""Read the settings and dictionaries of ELMoForManyLangs' models.

A model is a folder: config.json names a file of settings; char.dic and word.dic hold an entry and its id a line.
"""

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.typed_json import load_json, parse_json
from pipeline.characters import BEGIN_SENTENCE, BEGIN_WORD, END_SENTENCE, END_WORD, OOV, PAD, Dictionary
from pipeline.config.schema import ConfigError, require
from pipeline.model.dictionary import DictionaryModelConfig
from pipeline.model.formats.weight_checks import LARGEST_SIZE

log = logging.getLogger(__name__)
REMEDY = "give the folder of a model of ELMoForManyLangs, as it was unpacked"
# Training and embedding swap the names of a word's bounds (biLM.py and frontend.py, create_one_batch), and the models
# are trained so: a word begins with the character <eow> and ends with <bow>.
BOUNDS = {"<bos>": BEGIN_SENTENCE, "<eos>": END_SENTENCE, "<eow>": BEGIN_WORD, "<bow>": END_WORD, "<pad>": PAD}
_WHITE_SPACE = "\u3000"  # what an entry of white space is read as (elmo.py, get_model)
# The settings that the program ships, which folders name without holding them (configs/ of ELMoForManyLangs).
_SHIPPED = ("cnn_50_100_512_4096_sample.json", "cnn_0_100_512_4096_sample.json")
_SHIPPED_SETTINGS = b"""{"dropout": 0.1,
    "encoder": {"name": "elmo", "projection_dim": 512, "cell_clip": 3, "proj_clip": 3, "dim": 4096, "n_layers": 2},
    "token_embedder": {"name": "cnn", "activation": "relu", "n_highway": 2, "word_dim": 100, "char_dim": 50,
        "filters": [[1, 32], [2, 32], [3, 64], [4, 128], [5, 256], [6, 512], [7, 1024]],
        "max_characters_per_token": 50}}"""

_Size = Annotated[int, Ge(1), Le(LARGEST_SIZE)]
_Clip = Annotated[float, Ge(0), Le(1e30)]  # 0 is no clip (modules/lstm_cell_with_projection.py)


class _Pointer(TypedDict):
    config_path: str


class _Named(TypedDict):
    name: str


class _Kinds(TypedDict):
    encoder: _Named
    token_embedder: _Named


class _Encoder(TypedDict):
    projection_dim: _Size
    dim: _Size
    n_layers: _Size
    cell_clip: _Clip | None
    proj_clip: _Clip | None


class _TokenEmbedder(TypedDict):
    activation: Literal["relu", "tanh"]
    filters: list[tuple[_Size, _Size]]
    n_highway: Annotated[int, Ge(0), Le(LARGEST_SIZE)]
    word_dim: Annotated[int, Le(LARGEST_SIZE)]
    char_dim: Annotated[int, Le(LARGEST_SIZE)]
    max_characters_per_token: _Size


class _Settings(TypedDict):
    encoder: _Encoder
    token_embedder: _TokenEmbedder
    dropout: NotRequired[float]


def read_settings(folder: Path) -> tuple[DictionaryModelConfig, tuple[str, ...]]:
    """Return the settings with the dictionary, and the entries of char.dic by their ids there. Raises ConfigError."""
    require(folder.is_dir(), f"path={folder} is no folder; {REMEDY}")
    settings = _read_json_settings(folder)
    characters, word_dim = _read_dictionary(folder / "char.dic", tuple(BOUNDS)), settings["token_embedder"]["word_dim"]
    words = _read_dictionary(folder / "word.dic", ("<pad>",)) if word_dim > 0 else ()
    known = tuple(character for character in characters if character not in BOUNDS)
    return _model_config(settings, Dictionary(known, words, max(0, word_dim)), folder), characters


def _read_json_settings(folder: Path) -> _Settings:
    pointer: _Pointer = _read_json(folder / "config.json", _Pointer)
    named = Path(pointer["config_path"])
    # Only files of the folder are opened; many folders name a path of the machine that trained.
    places = [folder / named] if not named.is_absolute() and ".." not in named.parts else []
    path = next((place for place in [*places, folder / named.name] if place.is_file()), None)
    if path is None:
        require(
            named.name in _SHIPPED,
            f"{folder / named.name}: no such file, though config.json names it as config_path; copy the settings of "
            "the model there",
        )
        log.warning(
            "%s is not there; the settings that ELMoForManyLangs ships by this name are used", folder / named.name
        )
        return parse_json(_SHIPPED_SETTINGS, _Settings, named.name, REMEDY, ConfigError)
    kinds: _Kinds = _read_json(path, _Kinds)
    for part, wanted in (("encoder", "elmo"), ("token_embedder", "cnn")):
        found = kinds[part]["name"]  # type: ignore[literal-required]
        require(
            found.lower() == wanted,
            f"{path}: {part}.name is {found[:80]!r}, and must be {wanted}: only character CNNs and ELMo's LSTM can be "
            "imported",
        )
    settings: _Settings = _read_json(path, _Settings)
    require(
        settings["token_embedder"]["char_dim"] > 0,
        f"{path}: token_embedder.char_dim is {settings['token_embedder']['char_dim']}: a model of whole words; only "
        "models over characters can be imported",
    )
    return settings


def _read_json(path: Path, schema: Any) -> Any:
    require(path.is_file(), f"{path}: no such file; {REMEDY}")
    return load_json(path, schema, REMEDY, ConfigError)


def _model_config(settings: _Settings, dictionary: Dictionary, folder: Path) -> DictionaryModelConfig:
    encoder, embedder = settings["encoder"], settings["token_embedder"]
    try:
        return DictionaryModelConfig(
            character_dim=embedder["char_dim"],
            filters=[list(pair) for pair in embedder["filters"]],
            activation=embedder["activation"],
            max_characters=embedder["max_characters_per_token"],
            num_highway=embedder["n_highway"],
            lstm_dim=encoder["dim"],
            projection_dim=encoder["projection_dim"],
            num_layers=encoder["n_layers"],
            cell_clip=encoder["cell_clip"] or None,
            proj_clip=encoder["proj_clip"] or None,
            dropout=settings.get("dropout", DictionaryModelConfig.dropout),
            dictionary=dictionary,
        )
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None


def _read_dictionary(path: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return the entries of a dictionary by their ids. Raises ConfigError unless each id from 0 on is there once."""
    require(path.is_file(), f"{path}: no such file; {REMEDY}")
    try:
        lines = path.read_bytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error}); {REMEDY}") from None
    ids: dict[str, int] = {}
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        *entry, last = line.strip().split("\t")
        good = len(entry) <= 1 and last.isascii() and last.isdigit() and len(last) < 10
        require(good, f"{path}:{number}: {line[:80]!r} is not an entry, a tab and its id; {REMEDY}")
        name = entry[0] if entry else _WHITE_SPACE
        require(name not in ids, f"{path}:{number}: {name[:80]!r} stands there twice, so its id is not known; {REMEDY}")
        ids[name] = int(last)
    missing = [name for name in (OOV, *wanted) if name not in ids]
    require(not missing, f"{path} lacks {', '.join(missing)}, which every such model has; {REMEDY}")
    entries = sorted(ids, key=ids.__getitem__)
    gap = next((k for k, name in enumerate(entries) if ids[name] != k), None)
    require(gap is None, f"{path}: the id {gap} is missing or stands there twice, of {len(ids)} entries; {REMEDY}")
    return tuple(entries)
