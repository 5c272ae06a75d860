"""A command of `elmo`: its help, which lists every key with type, default and meaning, and how it ends."""

import os
import re
import select
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from data_prep.dataset.path_faults import PATH_FAULTS
from pipeline.config.load import require_text
from pipeline.config.packaged import config_names
from pipeline.config.terminal import print_text

EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 130, 141  # 141: as a shell says SIGPIPE
_KEYS = "Keys, with type and default; a later file or pair wins. `${...}` in a value is not replaced."
_LONG_WORD = re.compile(r"(\S{300})\S+")  # a path of thousands of characters is not shown whole


class Command(NamedTuple):
    run: Callable[[list[str]], int]
    schema: type[Any]
    meaning: str
    example: str


def run(name: str, command: Command, arguments: list[str]) -> int:
    """Run a command and return its exit code; print one sentence about a mistake of the user."""
    try:
        for argument in arguments:
            require_text(argument)
        return command.run(arguments)
    except (ValueError, OSError) as error:
        sentence = _sentence(error)
        if sentence is None:  # a mistake of ours
            raise
        print_text(f"elmo {name}: {_LONG_WORD.sub(lambda word: word[1] + '…', sentence)}", sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"elmo {name}: interrupted; run the same command again to resume", file=sys.stderr)
        return EXIT_INTERRUPTED


def until_reader_leaves(work: Callable[[], int]) -> int:
    """Return what work() returns; end without a traceback where the reader of standard output leaves (`| head`).

    SIGPIPE stays ignored: its default action would also end a process whose server closes a connection.
    """
    try:
        return work()
    except BrokenPipeError:
        if not _is_reader_gone():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it once more at its end
        return EXIT_BROKEN_PIPE


def _is_reader_gone() -> bool:
    """Return whether what reads standard output has ended, as `| head` does."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _sentence(error: Exception) -> str | None:
    """Return what to print of an error that the user can fix, None for any other."""
    if type(error).__module__.split(".")[0] in ("pipeline", "data_prep"):
        return str(error)
    if isinstance(error, OSError) and error.errno in PATH_FAULTS and isinstance(error.filename, str | bytes):
        return f"{os.fsdecode(error.filename)}: {error.strerror}; give a path that can be used, or change what is there"
    return None


def overview(commands: Mapping[str, Command]) -> str:
    usage = "elmo COMMAND [CONFIG.yaml ...] [key=value ...]      elmo COMMAND -h lists every key"
    lines = ["Pretrain, evaluate and use ELMo's bidirectional language model.", "", usage, ""]
    lines += [f"  {name:10}{command.meaning}" for name, command in commands.items()]
    configs = textwrap.wrap(f"Configs by name: {', '.join(config_names())}", 100, break_on_hyphens=False)
    return "\n".join([*lines, "", *configs])


def describe(name: str, command: Command) -> str:
    lines = [f"elmo {name}: {command.meaning}", "", f"  {command.example}", ""]
    if is_dataclass(command.schema):
        lines += [_KEYS, "", *_help_lines(command.schema)]
    return "\n".join(lines)


class Key(NamedTuple):
    """An option as a user types it: `name` is dotted, `type` and `default` are written as in YAML."""

    name: str
    type: str
    default: str
    meaning: str


def keys(schema: type[Any], prefix: str = "", section: Any = None) -> list[Key]:
    """Return every option of a schema, sections included, in the order of the code.

    section: the value whose fields are the defaults, None for the schema's own.
    """
    found: list[Key] = []
    hints = get_type_hints(schema)
    for field in fields(schema):
        name, default = f"{prefix}{field.name}", _default(field, section)
        if is_dataclass(default):
            found += keys(type(default), f"{name}.", default)
        else:
            found.append(Key(name, _type(hints[field.name]), _yaml(default), field.metadata["meaning"]))
    return found


def _default(field: Any, section: Any) -> Any:
    if section is not None:
        return getattr(section, field.name)
    return field.default if field.default_factory is MISSING else field.default_factory()


def _help_lines(schema: type[Any]) -> list[str]:
    """One line for each option; an empty line before each section."""
    lines: list[str] = []
    section, options = "", keys(schema)
    width = max(len(key.type) for key in options)
    for key in options:
        of_key = key.name.rpartition(".")[0]
        if of_key != section:
            lines.append("")
            section = of_key
        lines.append(f"  {f'{key.name}={key.default}':44} {key.type:{width}} {key.meaning}")
    return lines


def _yaml(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _type(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "|".join(get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        return "|".join(_type(part) for part in get_args(hint))
    return "null" if hint is NoneType else getattr(hint, "__name__", str(hint)).replace("builtins.", "")
