"""A config object out of defaults, YAML files and key=value arguments.

structured defaults -> YAML files -> arguments -> validated once; the rest of the code sees plain dataclasses.
"""

from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_type_hints

from pipeline.config import ConfigError

T = TypeVar("T")


def load(schema: type[T], arguments: list[str], under: dict[str, Any] | None = None) -> T:
    """Merge defaults, YAML files and key=value arguments, in this order, into a validated `schema` object.

    under: values that stand in for defaults.
    Raises ConfigError for unknown keys, wrong types, missing files and values out of range.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    files, pairs = _split_arguments(arguments)
    try:
        config = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(under or {}))
        for file in files:
            config = OmegaConf.merge(config, _read_yaml(file))
        lists = _lists(schema, pairs)
        config = OmegaConf.merge(config, OmegaConf.from_dotlist([p for p in pairs if p.partition("=")[0] not in lists]))
        for key, values in lists.items():
            OmegaConf.update(config, key, values)
        return cast(T, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise ConfigError(_one_sentence(error)) from None
    except AttributeError as error:  # from_dotlist on a key that goes through a value
        raise ConfigError(f"{pairs}: {error}") from None


def _split_arguments(arguments: list[str]) -> tuple[list[str], list[str]]:
    files = [a for a in arguments if a.endswith((".yaml", ".yml")) and "=" not in a]
    pairs = [a for a in arguments if a not in files]
    for pair in pairs:
        key, equals, _ = pair.partition("=")
        if not equals or not key.replace(".", "").replace("_", "").isalnum():
            raise ConfigError(f"{pair!r} is neither a .yaml file nor key=value; write for example data.lanes=32")
    return files, pairs


def _lists(schema: type[Any], pairs: list[str]) -> dict[str, list[str]]:
    """Lists of strings may be given plainly and more than once: input=a.txt input=b.txt is input=[a.txt,b.txt]."""
    lists: dict[str, list[str]] = {}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if _field_type(schema, key.split(".")) == list[str] and not value.startswith("["):
            lists.setdefault(key, []).append(value)
    return lists


def _field_type(schema: Any, names: list[str]) -> Any:
    for name in names:
        schema = get_type_hints(schema).get(name) if is_dataclass(schema) else None
    return schema


def _read_yaml(file: str) -> Any:
    import yaml
    from omegaconf import OmegaConf

    if not Path(file).is_file():
        raise ConfigError(f"{file}: no such config file; see configs/ for those that come with the project")
    try:
        return OmegaConf.load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not YAML: {' '.join(str(error).split())}") from None


def _one_sentence(error: Exception) -> str:
    key = getattr(error, "full_key", None)
    text = str(error).split("\n    full_key")[0].strip()
    return f"{key}: {' '.join(text.split())}" if key else " ".join(text.split())


def from_dict(schema: type[T], values: dict[str, Any]) -> T:
    """The inverse of `to_dict`."""
    from omegaconf import OmegaConf

    return cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.create(values))))
