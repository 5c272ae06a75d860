"""A config object out of defaults, YAML files and key=value arguments.

structured defaults -> YAML files -> arguments -> validated once; the rest of the code sees plain dataclasses. All
values are data: `${...}` is text, and never stands for another option or a variable of the environment.
"""

import contextlib
import math
import os
import re
import textwrap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from pipeline.config.packaged import config_names, find_config
from pipeline.config.schema import ConfigError, to_dict

T = TypeVar("T")
_SHOWN_CHARACTERS = 300
_MAX_INTEGER = (1 << 63) - 1


def load(
    schema: type[T], arguments: list[str], under: dict[str, Any] | None = None, variant: str = "",
    variants: Collection[str] = (),
) -> T:  # fmt: skip
    """Merge defaults, YAML files and key=value arguments, in this order, into a validated `schema` object.

    under: values that stand in for defaults. variants: names of sections that a YAML file may have for one variant of
    the schema each; those of `variant` are merged after the rest of the file, those of others are left out.
    Raises ConfigError for unknown keys, wrong types, missing files and values out of range.
    """
    files, pairs = _split_arguments(arguments)
    yaml = [part for file in files for part in _read_yaml(schema, file, variant, variants)]
    return _build(schema, [under or {}, *yaml, *_read_pairs(schema, pairs)])


def from_dict(schema: type[T], values: dict[str, Any]) -> T:
    """Return the `schema` object that `to_dict` made `values` of. Raises ConfigError as `load` does."""
    return _build(schema, [values])


def to_yaml(config: Any) -> str:
    """Return the YAML file that `load` reads as `config`, a config or nested dicts."""
    from omegaconf import OmegaConf

    values = config if isinstance(config, dict) else to_dict(config)
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(values)), resolve=True)


def flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested sections by their full names, as train.lanes."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def is_config(argument: str) -> bool:
    """Return whether an argument is a YAML file or names a config of this package, and is not key=value."""
    return "=" not in argument and (argument.endswith((".yaml", ".yml")) or find_config(argument) is not None)


def require_text(text: str) -> str:
    """Return `text`. Raises ConfigError if it is no Unicode text or holds NUL, which no file name may."""
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(f"{_short(ascii(text))} is not UTF-8 text without NUL; write it in UTF-8, or rename the file")
    return text


def _build(schema: type[T], parts: list[dict[str, Any]]) -> T:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    for part in parts:
        _check_booleans(schema, part)
    try:
        config = OmegaConf.merge(OmegaConf.structured(schema), *(OmegaConf.create(_escaped(part)) for part in parts))
        for key, number in _numbers(OmegaConf.to_container(config, resolve=True)):
            is_usable = abs(number) <= _MAX_INTEGER if isinstance(number, int) else math.isfinite(number)
            if not is_usable:
                raise ConfigError(f"{key}={_short(str(number))} must be a finite number of at most 64 bits")
        return cast(T, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise ConfigError(_one_sentence(error)) from None
    except RecursionError:
        raise ConfigError("the config is nested too deeply; its sections hold keys, and these hold values") from None


def _split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    files, pairs = [], []
    for argument in arguments:
        key, equals, _ = argument.partition("=")
        if is_config(argument):
            files.append(find_config(argument) or argument)
        elif equals and key.replace(".", "").replace("_", "").isalnum():
            pairs.append(argument)
        else:
            raise ConfigError(
                f"{argument!r} is neither a .yaml file nor key=value, as data.lanes=32; {_config_meant(argument)}"
            )
    return files, pairs


def _config_meant(name: str) -> str:
    """Return which config of this package a name that is none of them may mean, and where all are listed."""
    stem = os.path.splitext(name)[0].removeprefix("configs/")
    close = get_close_matches(stem, config_names(), n=1, cutoff=0.7)
    return f"did you mean the config {close[0]}?" if close else "`elmo -h` lists the configs that have names"


def _read_pairs(schema: type[Any], pairs: list[str]) -> list[dict[str, Any]]:
    """Return the pairs as nested dicts, each value read by the type of its key.

    Lists of strings may be given plainly and more than once: input=a.txt input=b.txt is input=[a.txt,b.txt].
    """
    parts: list[dict[str, Any]] = []
    lists: dict[str, list[str]] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        hint = _type_of(schema, key)
        value: Any
        if hint == list[str]:
            listed = _listed(text)
            value = lists[key] = [*lists.get(key, []), text] if listed is None else listed
        elif _is_text(hint):
            value = None if NoneType in get_args(hint) and text in ("null", "~", "") else _unquoted(text)
        else:
            value = _parse(key, text)
            if is_dataclass(hint) and not isinstance(value, dict):
                raise ConfigError(f"{key}={_short(text)}: {key} is a section; give its keys, as {key}.NAME=VALUE")
        for name in reversed(key.split(".")):
            value = {name: value}
        parts.append(value)
    return parts


def _type_of(schema: Any, key: str) -> Any:
    names = key.split(".")
    for place, name in enumerate(names):
        hints = get_type_hints(schema) if is_dataclass(schema) else {}
        if name not in hints:
            known = get_close_matches(name, hints, n=1)
            close = "".join(f"; did you mean {'.'.join([*names[:place], one])}?" for one in known)
            raise ConfigError(f"there is no key {_short(key)}{close or '; `elmo COMMAND -h` lists those of a command'}")
        schema = hints[name]
    return schema


def _unquoted(text: str) -> str:
    """Return what YAML reads from text in quotes, and other text as it stands.

    A sentence between quotes that are words of it, as `" Yes . "`, keeps them.
    """
    import yaml

    if re.fullmatch(r"""(["'])(\S(.*\S)?)?\1""", text, re.DOTALL):
        with contextlib.suppress(yaml.YAMLError):
            value = yaml.load(text, yaml.BaseLoader)
            return value if isinstance(value, str) else text
    return text


def _listed(text: str) -> list[str] | None:
    """Return the items of `[a, b]` as they are written, None if the text is no such list of strings."""
    import yaml

    if not text.startswith("["):
        return None
    try:
        items = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    return items if isinstance(items, list) and all(isinstance(item, str) for item in items) else None


def _parse(key: str, text: str) -> Any:
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)["value"]  # type: ignore
    except Exception as error:  # PyYAML lets through whatever its constructors raise: KeyError, RecursionError, ...
        raise ConfigError(f"{key}={_short(text)} cannot be read as YAML ({_one_sentence(error)})") from None


def _read_yaml(schema: type[Any], file: str, variant: str, variants: Collection[str]) -> list[dict[str, Any]]:
    import yaml
    from omegaconf import OmegaConf

    if not os.path.isfile(file):
        raise ConfigError(f"{file}: no such config file; {_config_meant(file)}")
    try:
        values = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        with open(file, "rb") as stream:
            written = yaml.load(stream, yaml.BaseLoader)  # every scalar as its text
    except Exception as error:  # as in `_parse`
        raise ConfigError(f"{file} is not YAML: {_one_sentence(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{file} holds a list, not keys with values; write for example data: {{lanes: 32}}")
    written = written if isinstance(written, dict) else {}  # OmegaConf reads a file of one word as a key
    own, own_written = (values.get(variant) or {}, written.get(variant)) if variant in variants else ({}, {})
    if not isinstance(own, dict):
        raise ConfigError(f"{file}: {variant} is a section; give its keys, as {variant}: {{KEY: VALUE}}")
    shared = {key: value for key, value in values.items() if key not in variants}
    return [_as_written(schema, shared, written), _as_written(schema, own, own_written)]


def _as_written(hint: Any, value: Any, written: Any) -> Any:
    """Return the values of a YAML file in which what is typed as text is the text: `no` and 1e3 are words too."""
    if isinstance(value, dict) and isinstance(written, dict) and is_dataclass(hint):
        hints = get_type_hints(hint)
        return {key: _as_written(hints.get(key), item, written.get(key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(written, list) and hint == list[str]:
        return [_as_written(str, item, text) for item, text in zip(value, written, strict=True)]
    return written if _is_text(hint) and isinstance(value, bool | int | float) and isinstance(written, str) else value


def _is_text(hint: Any) -> bool:
    return not _takes_numbers(hint) and any(part is str or get_origin(part) is Literal for part in _parts(hint))


def _takes_numbers(hint: Any) -> bool:
    return any(part in (int, float) for part in _parts(hint))


def _parts(hint: Any) -> tuple[Any, ...]:
    """Return a type and the types of which it is a union."""
    return hint, *get_args(hint)


def _escaped(value: Any) -> Any:
    """Return a copy of plain values in which OmegaConf finds nothing to replace."""
    if isinstance(value, dict):
        return {_escaped(key): _escaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, str):
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", require_text(value))
        return f"\\{text}" if re.fullmatch(r"\\*\?\?\?", text) else text  # ??? is a value that is missing
    return value


def _check_booleans(schema: Any, values: dict[str, Any], prefix: str = "") -> None:
    """Raise ConfigError for a number other than 0 and 1 as a boolean, which OmegaConf takes as true."""
    hints = get_type_hints(schema)
    for name, value in values.items():
        hint = hints.get(name)
        if isinstance(value, dict) and is_dataclass(hint):
            _check_booleans(hint, value, f"{prefix}{name}.")
        elif bool in _parts(hint) and isinstance(value, int | float) and value not in (0, 1):
            raise ConfigError(f"{prefix}{name}={value} must be true or false")


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield the numbers in nested dicts and lists, each with its dotted key."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, key)
    elif isinstance(value, int | float):
        yield key, value


def _one_sentence(error: Exception) -> str:
    key = getattr(error, "full_key", None)
    if choices := _choices(error):
        return f"{key}={_short(repr(getattr(error, 'value', None)))} must be {choices}"
    text = _short(str(error).split("\n    full_key")[0] or type(error).__name__)
    return f"{key}: {text}" if key else text


def _choices(error: Exception) -> str:
    """Return the values that an option takes, and its meaning, if the error is about a value that is none of them."""
    schema: Any = getattr(error, "object_type", None)
    if is_dataclass(schema):
        for field in fields(schema):
            hint = get_type_hints(schema)[field.name]
            choices = [choice for part in _parts(hint) if get_origin(part) is Literal for choice in get_args(part)]
            numbers = ["a number" if float in _parts(hint) else "a whole number"] * _takes_numbers(hint)
            wanted = [*numbers, *choices, *["true or false"] * (bool in _parts(hint))]
            if field.name == getattr(error, "key", None) and wanted:
                *others, last = wanted
                return f"{', '.join(others)}{' or ' if others else ''}{last} ({field.metadata['meaning']})"
    return ""


def _short(text: str) -> str:
    return textwrap.shorten(" ".join(text.split())[: 2 * _SHOWN_CHARACTERS], _SHOWN_CHARACTERS, placeholder=" …")
