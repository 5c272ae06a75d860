"""Text for a terminal: names and messages out of foreign data must not control it."""

import logging
import re
import sys
from collections.abc import Sequence
from typing import TextIO

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but line feed and tab; marks that turn the direction of writing; halves of surrogate pairs."""


def printable(text: str) -> str:
    r"""Return the text with each character that could control a terminal written as an escape, as in \x1b."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def print_text(text: object, file: TextIO | None = None) -> None:
    """Print str(text), made `printable`. file: [default: standard output]."""
    print(printable(str(text)), file=sys.stdout if file is None else file, flush=True)


def align(rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Return rows of cells as lines: the first columns, which hold text, to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    places = [f"{'<' if number < text_columns else '>'}{width}" for number, width in enumerate(widths)]
    return "\n".join("  ".join(map(format, row, places)).rstrip() for row in rows)


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def make_warnings_printable() -> None:
    """Make `printable` what logging writes to standard error where a program has set up nothing else."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_PrintableFormatter())
