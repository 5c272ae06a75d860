"""The form of benchmark commands: --name=value options beside what `elmo` takes, a table, and a JSON file."""

import json
import os
from pathlib import Path
from typing import Any

import torch


def split_options(arguments: list[str], **defaults: Any) -> tuple[dict[str, Any], list[str]]:
    """The --name=value options over their defaults, as those's types, and the other arguments.

    --threads (all cores) is set here for torch; --output is every command's.
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
    """The .yaml files among the arguments, or these, and the other arguments."""
    files = [a for a in arguments if a.endswith(".yaml") and "=" not in a]
    return files or list(defaults), [a for a in arguments if a not in files]


def write_result(output: str, result: Any) -> None:
    """The figures are in the file `output`, if one is named."""
    if output:
        Path(output).write_text(json.dumps(result, indent=1) + "\n")
