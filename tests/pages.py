"""Read the documents for tests: their fenced blocks, the commands in them, and the output that they show."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
DOCUMENTS = sorted(path for glob in ("*.md", "docs/**/*.md", "lab/*.md", "[bd]*/README.md") for path in ROOT.glob(glob))
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language ("" if none is given) and its lines."""

    language: str
    body: str


class Command(NamedTuple):
    """A line that starts with `$ `, joined with the lines that continue it, and the output that the page shows."""

    words: list[str]
    output: list[str]


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [Block(*match) for match in _FENCED.findall(page.read_text(encoding="utf-8"))]


def code(page: Path, language: str) -> list[str]:
    """Return the bodies of the page's blocks of one language."""
    return [block.body for block in blocks(page) if block.language == language]


def commands(body: str) -> list[Command]:
    """Return the commands of a console block, whose first line must be a command."""
    found: list[Command] = []
    for line in body.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            found.append(Command(shlex.split(line.removeprefix("$ ")), []))
        else:
            assert found, f"a console block begins with a command, not with {line!r}"
            found[-1].output.append(line)
    return found


def page_commands(page: Path) -> list[Command]:
    """Return the commands of all console blocks of a page."""
    return [command for body in code(page, "console") for command in commands(body)]


def labels(lines: list[str]) -> set[str]:
    """Return the first word of each line, with # in place of each number: the line's label without its figures."""
    return {re.sub(r"-?\d[\d.,]*", "#", line.split()[0]) for line in lines if line.strip()}
