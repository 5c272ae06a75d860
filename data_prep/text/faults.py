"""Lines that cannot be used: how far a text is read on after the first one, and the error that lists them."""

from collections.abc import Sequence
from typing import NamedTuple

from data_prep.dataset.files import DataError

_MOST_FAULTS, _MOST_WORDS = 1_000, 20_000_000  # ten seconds of tokenised text, a minute of raw text
_LISTED = 10


class Fault(NamedTuple):
    """A line, from 1, of the file `path`, and what is wrong with the line: "is not UTF-8 ..."."""

    path: str
    line: int
    what: str


def are_enough(faults: int, words: int) -> bool:
    """Return whether to stop, after so many faults and so many words since the first fault."""
    return bool(faults) and (faults >= _MOST_FAULTS or words >= _MOST_WORDS)


def error_of(faults: Sequence[Fault], remedy: str) -> DataError:
    """Return the error that lists the first faults and says how many there are. remedy: beside a correction."""
    first = [f"{path}, line {line:,} {what}" for path, line, what in sorted(faults)[:_LISTED]]
    if len(faults) == 1:
        return DataError(f"{first[0]} (or {remedy}; no other fault was found so far)")
    return DataError(
        f"{len(faults):,} lines so far cannot be used; correct them, or {remedy} (reading ends {_MOST_FAULTS:,} faults "
        f"or {_MOST_WORDS:,} words after the first fault); the first {len(first)}:\n  " + "\n  ".join(first)
    )
