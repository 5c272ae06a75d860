"""The dictionary of a model in its folder: characters.txt and words.txt, one entry a line, beside config.json."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from data_prep.dataset.typed_json import Count, check_value
from pipeline.characters import OOV, Dictionary
from pipeline.config.schema import ConfigError, ModelConfig, require, to_dict
from pipeline.model.dictionary import DictionaryModelConfig, dictionary_of
from pipeline.model.formats.folder_config import CHARACTERS, CONFIG, WORDS, FolderConfig

DICTIONARY = "dictionary"  # key under `model` of config.json
_REMEDY = "copy or import the model again"


class _Section(TypedDict):
    word_dim: Count


def model_section(config: ModelConfig) -> dict[str, Any]:
    """Return what stands under `model` in config.json: the settings, and of a dictionary its size of word vectors."""
    dictionary = dictionary_of(config)
    if dictionary is None:
        return to_dict(config)
    plain = {name: value for name, value in vars(config).items() if name != DICTIONARY}
    return {**to_dict(ModelConfig(**plain)), DICTIONARY: {"word_dim": dictionary.word_dim}}


def file_contents(config: ModelConfig) -> dict[str, bytes]:
    """Return the files of the model's dictionary, none without one."""
    dictionary = dictionary_of(config)
    if dictionary is None:
        return {}
    lists = {CHARACTERS: dictionary.characters, **({WORDS: dictionary.words} if dictionary.words else {})}
    return {name: "".join(f"{entry}\n" for entry in entries).encode() for name, entries in lists.items()}


def with_dictionary(folder: Path, described: FolderConfig, config: ModelConfig) -> ModelConfig:
    """Return the model's settings with its dictionary, if it has one. The files have been checked by their hashes."""
    if DICTIONARY not in described.model:
        return config
    name, section = f"{folder / CONFIG}, model.{DICTIONARY},", described.model[DICTIONARY]
    check_value(section, _Section, name, _REMEDY, ConfigError)
    for file, is_wanted in ((CHARACTERS, True), (WORDS, section["word_dim"] > 0)):
        require(
            (file in described.files) == is_wanted,
            f"{name} {'needs' if is_wanted else 'has no place for'} the file {file}; {_REMEDY}",
        )
    words = _read_entries(folder / WORDS) if section["word_dim"] else ()
    dictionary = Dictionary(_read_entries(folder / CHARACTERS), words, section["word_dim"])
    return DictionaryModelConfig(**asdict(config), dictionary=dictionary)


def _read_entries(path: Path) -> tuple[str, ...]:
    try:
        entries = tuple(path.read_bytes().decode().split("\n")[:-1])
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error}); {_REMEDY}") from None
    require(OOV in entries, f"{path} lacks {OOV}, which stands for all that it does not have; {_REMEDY}")
    require(len(set(entries)) == len(entries), f"{path} has an entry twice; {_REMEDY}")
    return entries
