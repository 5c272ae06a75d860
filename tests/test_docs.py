"""Commands on pages that are too large to be run: every key is one, and every value of its type."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import COMMANDS
from pipeline.config import PretrainConfig
from pipeline.read_config import load

ROOT = Path(__file__).parents[1]
PAGES = ("one-billion-words.md", "slurm.md")


def commands(page: str) -> list[list[str]]:
    """Words of each command line on the page; lines that end in a backslash go on."""
    blocks = re.findall(r"```(?:console)?\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line.removeprefix("$ ")) for line in lines if line.strip()]


def settings(words: list[str]) -> tuple[type[Any], list[str]] | None:
    """What a command line sets, and in which schema."""
    arguments = [word for word in words if not word.startswith("-")]
    if words[0] in ("slurm/prep.sh", "slurm/submit.sh"):
        return COMMANDS["prep"].schema if words[0].endswith("prep.sh") else PretrainConfig, arguments[1:]
    if "elmo" not in arguments or words[0] == "git":
        return None
    name, *rest = arguments[arguments.index("elmo") + 1 :]
    if rest[0] in ("verify", "info"):
        return None
    return COMMANDS[name].schema, [word if "=" in word or word.endswith(".yaml") else f"runs={word}" for word in rest]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_set_what_there_is_to_set(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = [wanted for words in commands(page) if (wanted := settings(words)) is not None]
    assert found
    for schema, arguments in found:
        load(schema, arguments)


@pytest.mark.parametrize("page", PAGES)
def test_the_scripts_of_a_page_are_there(page: str) -> None:
    for script in re.findall(r"(?<!tests/)slurm/[a-z_]+\.(?:sh|sbatch|py)", (ROOT / "docs" / page).read_text("utf-8")):
        assert (ROOT / script).exists(), script
