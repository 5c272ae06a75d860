"""The common form of benchmark commands: --name=value options, arguments as for `elmo`, a table, and a JSON file."""

import json
import os
from pathlib import Path
from typing import Any

import torch


def split_options(arguments: list[str], **defaults: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the --name=value options, typed as their defaults, and the other arguments.

    Every command has --threads (default: all cores), which is set for torch here, and --output.
    """
    known = {"threads": os.cpu_count() or 1, "output": "", **defaults}
    for argument in [a for a in arguments if a.startswith("--")]:
        name, equals, value = argument.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if name not in known:
            raise SystemExit(f"{argument} is unknown; there are {', '.join('--' + k.replace('_', '-') for k in known)}")
        known[name] = type(known[name])(value) if equals else True
    torch.set_num_threads(int(known["threads"]))
    return known, [a for a in arguments if not a.startswith("--")]


def yaml_files(arguments: list[str], *defaults: str) -> tuple[list[str], list[str]]:
    """Return the .yaml files among the arguments, or the defaults if there are none, and the other arguments."""
    files = [a for a in arguments if a.endswith(".yaml") and "=" not in a]
    return files or list(defaults), [a for a in arguments if a not in files]


def write_result(output: str, result: Any) -> None:
    """Write the figures into the file `output`, if one is named."""
    if output:
        Path(output).write_text(json.dumps(result, indent=1) + "\n")
