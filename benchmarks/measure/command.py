"""The common form of benchmark commands: --name=value options, arguments as for `elmo`, a table, and a JSON file."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_HELP = {"-h", "--help"}


def split_options(usage: str | None, arguments: list[str], **defaults: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the --name=value options, typed as their defaults, and the other arguments.

    Every command has --threads (default: all cores), which is set for torch here, --output, and -h, which checks the
    options and prints `usage`.
    """
    known = {"threads": os.cpu_count() or 1, "output": "", **defaults}
    for argument in [a for a in arguments if a.startswith("--") and a not in _HELP]:
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if name not in known:
            raise SystemExit(f"{argument} is unknown; there are {', '.join('--' + k.replace('_', '-') for k in known)}")
        try:
            known[name] = type(known[name])(value) if equals else True
        except ValueError:
            raise SystemExit(f"{argument} has a value of the wrong type; give one such as {known[name]}") from None
    if _HELP & set(arguments):
        print(usage)
        raise SystemExit(0)
    import torch  # here, since worker processes of benchmarks.synthetic import this file and need no torch

    torch.set_num_threads(int(known["threads"]))
    return known, [a for a in arguments if not a.startswith("--")]


def elmo(*arguments: str) -> None:
    """Run a command of elmo and print it; what it prints goes to standard error."""
    run_module("pipeline.cli", *arguments)


def run_module(module: str, *arguments: str) -> None:
    """Run a module with this Python and print the command; what it prints goes to standard error."""
    print(f"$ python -m {module} {' '.join(arguments)}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", module, *arguments], check=True, stdout=sys.stderr)


def require_known(option: str, names: list[str], known: Iterable[str]) -> None:
    """End the command if one of the option's names is unknown."""
    if unknown := sorted(set(names) - set(known)):
        raise SystemExit(f"--{option}={','.join(unknown)} is unknown; there are {', '.join(known)}")


def yaml_files(arguments: list[str], *defaults: str) -> tuple[list[str], list[str]]:
    """Return the .yaml files among the arguments, or the defaults if there are none, and the other arguments."""
    files = [a for a in arguments if a.endswith(".yaml") and "=" not in a]
    return files or list(defaults), [a for a in arguments if a not in files]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns: the first column to the left, the others to the right."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    aligned = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in aligned)


def write_result(output: str, result: Any) -> None:
    """Write the figures into the file `output`, if one is named."""
    if output:
        Path(output).write_text(json.dumps(result, indent=1) + "\n")
