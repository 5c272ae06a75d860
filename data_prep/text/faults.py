"""Lines that cannot be used: how much text is read after the first one, and the error that lists them."""

from collections.abc import Sequence
from typing import NamedTuple

from data_prep.dataset.files import DataError

_MOST_FAULTS, _MOST_WORDS = 1_000, 20_000_000  # ten seconds of tokenised text, a minute of raw text
_LISTED = 10


class Fault(NamedTuple):
    """A faulty line. line: its number in the file `path`, from 1. what: the fault, such as "is not UTF-8 ..."."""

    path: str
    line: int
    what: str


def are_enough(faults: int, words: int) -> bool:
    """Return whether to stop reading. faults: found so far. words: read since the first fault."""
    return bool(faults) and (faults >= _MOST_FAULTS or words >= _MOST_WORDS)


def error_of(faults: Sequence[Fault], remedy: str) -> DataError:
    """Return the error that lists the first faults and counts all. remedy: what else the user can do than correct."""
    first = [f"{path}, line {line:,} {what}" for path, line, what in sorted(faults)[:_LISTED]]
    if len(faults) == 1:
        return DataError(f"{first[0]} (or {remedy}; no other fault was found so far)")
    return DataError(
        f"{len(faults):,} lines so far cannot be used; correct them, or {remedy} (reading ends {_MOST_FAULTS:,} faults "
        f"or {_MOST_WORDS:,} words after the first fault); the first {len(first)}:\n  " + "\n  ".join(first)
    )
