"""Read and write the files beside bilm-tf's and AllenNLP's weights: options.json (architecture), vocab.txt (words)."""

import json
import math
from pathlib import Path
from typing import Any

from data_prep.dataset.files import write_bytes, write_json
from data_prep.dataset.lexicon import SPECIALS
from pipeline.config.schema import ConfigError, ModelConfig, require, to_dict
from pipeline.model.formats.weight_checks import LARGEST_SIZE

# Our name and bilm-tf's key of each option, for reading and for writing.
KEYS = {
    "character_dim": "char_cnn.embedding.dim",
    "filters": "char_cnn.filters",
    "activation": "char_cnn.activation",
    "max_characters": "char_cnn.max_characters_per_token",
    "num_highway": "char_cnn.n_highway",
    "lstm_dim": "lstm.dim",
    "projection_dim": "lstm.projection_dim",
    "num_layers": "lstm.n_layers",
    "cell_clip": "lstm.cell_clip",
    "proj_clip": "lstm.proj_clip",
    "skip_connections": "lstm.use_skip_connections",
    "dropout": "dropout",
}
_ABSENT = {"num_highway": 0, "num_layers": 1, "cell_clip": None, "proj_clip": None, "dropout": ModelConfig.dropout}
_CHARACTERS = "char_cnn.n_characters"
INFERENCE_CHARACTERS, TRAINING_CHARACTERS = 262, 261  # with and without the mask's id; weights always have 261 rows
_ALLENNLP_WORD_CHARACTERS = 50
_BILM_TF_LAYERS = 8  # bilm-tf knows the names of this many layers (model.py, _pretrained_initializer)
_SHOWN_CHARACTERS = 80
_NOT_A_WORD = "!!!MAXTERMID"  # skipped by bilm-tf (data.py:37)


def read_options(path: Path) -> ModelConfig:
    """Return the architecture that an options.json describes. Raises ConfigError that names the wrong key."""
    options = _read_json(path)
    require(
        "char_cnn" in options or "lstm" not in options,
        f"options={path} has no char_cnn: a model of whole words; only models over characters can be imported",
    )
    require(_get(options, "bidirectional", path) in (None, True), f"options={path}: bidirectional must be true")
    characters = _get(options, _CHARACTERS, path)
    require(
        characters in (None, TRAINING_CHARACTERS, INFERENCE_CHARACTERS),
        f"options={path}: {_CHARACTERS} is {_shown(characters)}, and must be {INFERENCE_CHARACTERS} or "
        f"{TRAINING_CHARACTERS}: only models over UTF-8 bytes can be imported",
    )
    values: dict[str, Any] = {}
    for name, key in KEYS.items():
        value = _get(options, key, path)
        require(
            value is not None or name in _ABSENT,
            f"options={path} lacks {key}; give the options.json that came with the weights",
        )
        values[name] = _ABSENT[name] if value is None else _checked(name, value, f"options={path}: {key}")
    try:
        return ModelConfig(**values)
    except ConfigError as error:
        raise ConfigError(f"options={path}: {error}") from None


def write_options(path: Path, config: ModelConfig) -> None:
    """Write the options.json of an architecture for inference with bilm-tf and AllenNLP: n_characters is 262."""
    options: dict[str, Any] = {"bidirectional": True}
    values = {key: to_dict(config)[name] for name, key in KEYS.items()} | {_CHARACTERS: INFERENCE_CHARACTERS}
    for key, value in values.items():
        *groups, last = key.split(".")
        group = options
        for name in groups:
            group = group.setdefault(name, {})
        group[last] = value
    write_json(path, options)


def refusals(config: ModelConfig) -> list[str]:
    """Return a line for each program that cannot read the model, with the reason."""
    filters = sum(number for _, number in config.filters)
    found = []
    if not config.skip_connections:
        found.append("AllenNLP refuses models without skip connections (model.skip_connections=false)")
    if config.max_characters != _ALLENNLP_WORD_CHARACTERS:
        found.append(f"AllenNLP spells words in 50 characters, this model in {config.max_characters}")
    if filters == config.projection_dim:
        found.append(f"AllenNLP expects a projection after the {filters} filters, which this model has no need of")
    if filters < config.projection_dim:
        found.append(f"bilm-tf refuses fewer filters ({filters}) than projection_dim={config.projection_dim}")
    if config.projection_dim >= config.lstm_dim:
        found.append(
            f"bilm-tf leaves the LSTM's projection out where projection_dim={config.projection_dim} is not below "
            f"lstm_dim={config.lstm_dim}: its numbers would be others"
        )
    if config.num_layers > _BILM_TF_LAYERS:
        found.append(
            f"bilm-tf and simple_elmo read at most {_BILM_TF_LAYERS} layers, this model has {config.num_layers}"
        )
    return found


def read_vocabulary(path: Path) -> list[str]:
    """Return the words of a vocab.txt, one per line, with <S>, </S> and <UNK> moved or added to the front.

    The order does not matter, because the weights do not hold the softmax. Raises ConfigError.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except FileNotFoundError:
        raise ConfigError(f"vocabulary={path}: no such file; it lies beside the weights, or leave it out") from None
    except IsADirectoryError:
        raise ConfigError(f"vocabulary={path} is a folder; give the file vocab.txt in it") from None
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"vocabulary={path} is not UTF-8 text ({error}); give one word a line") from None
    words, seen = dict.fromkeys(SPECIALS), set()
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, 1):
        word = line.strip()
        require(bool(word), f"vocabulary={path}:{number} is empty; give one word a line")
        require(word not in seen, f"vocabulary={path}:{number}: {word!r} stands there twice; give each word once")
        seen.add(word)
        if word != _NOT_A_WORD:
            words[word] = None
    return list(words)


def write_vocabulary(path: Path, words: list[str]) -> None:
    """Write one word per line, as bilm-tf reads them."""
    write_bytes(path, "".join(f"{word}\n" for word in words).encode())


def _read_json(path: Path) -> dict[str, Any]:
    try:
        options = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"options={path}: no such file; give the options.json beside the weights") from None
    except (ValueError, RecursionError, OSError) as error:
        raise ConfigError(f"options={path} is not JSON ({error}); give bilm-tf's options.json") from None
    require(isinstance(options, dict), f"options={path} holds no options; give bilm-tf's options.json")
    return options


def _get(options: dict[str, Any], key: str, path: Path) -> Any:
    """Return the value of a dotted key, None if it is absent or null."""
    value: Any = options
    for name in key.split("."):
        require(isinstance(value, dict), f"options={path}: {key} is not where bilm-tf writes it")
        value = value.get(name)
        if value is None:
            return None
    return value


def _checked(name: str, value: Any, where: str) -> Any:
    """Return the value in the form of ModelConfig. Raises ConfigError for another kind of value."""
    if name == "filters":
        good = isinstance(value, list) and all(isinstance(f, list) and list(map(type, f)) == [int, int] for f in value)
        good = good and all(max(f) < LARGEST_SIZE for f in value)
        require(good, f"{where} is {_shown(value)}, and must be [[width, number], ...]")
    elif name == "skip_connections":
        require(type(value) is bool, f"{where} is {_shown(value)}, and must be true or false")
    elif name == "activation":
        require(value in ("relu", "tanh"), f"{where} is {_shown(value)}, and must be relu or tanh")
    else:
        good = type(value) is int or (type(value) is float and math.isfinite(value))
        require(good and abs(value) < LARGEST_SIZE, f"{where} is {_shown(value)}, and must be a number")
        if name in ("cell_clip", "proj_clip"):
            require(value != 0, f"{where} is 0, `all zero` to bilm-tf, `no clip` to AllenNLP; write null for no clip")
        if name in ("cell_clip", "proj_clip", "dropout"):
            return float(value)
        require(value == int(value), f"{where} is {_shown(value)}, and must be a whole number")
        return int(value)
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
