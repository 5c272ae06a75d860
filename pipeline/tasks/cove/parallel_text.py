"""Read a parallel text: line n of one file is the translation of line n of the other."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from data_prep.dataset.files import DataError
from pipeline.config.cove import CoveConfig
from pipeline.config.schema import require
from pipeline.tasks.examples.lines import bad_line, read_lines
from pipeline.tasks.examples.raw_text import OffsetTokenizer
from pipeline.tasks.examples.types import Words

Split = Callable[[str], Words]


@dataclass(frozen=True)
class Translation:
    """A sentence and its translation."""

    source: Words
    target: Words

    def texts(self) -> tuple[Words, ...]:
        return (self.source,)

    @property
    def longest(self) -> int:
        return max(len(self.source), len(self.target))


class ParallelText:
    """Split lines into words as the config says: at white space, or by the rules of both languages."""

    def __init__(self, config: CoveConfig) -> None:
        self._source = _split(config.tokenize, config.language, False)
        self._target = _split(config.tokenize, config.target_language, config.lower)

    def read(self, sources: Sequence[str], targets: Sequence[str]) -> list[Translation]:
        """Return the pairs of sentences. Raises ConfigError, DataError."""
        require(
            len(sources) == len(targets),
            f"there are {len(sources)} source files and {len(targets)} target files; give one target for each source",
        )
        return [pair for files in zip(sources, targets, strict=True) for pair in self._of_files(*files)]

    def _of_files(self, source: str, target: str) -> Iterator[Translation]:
        ends = [0, 0]
        for lines in zip_longest(read_lines(source), read_lines(target)):
            ends = [end if line is None else line[0] for end, line in zip(ends, lines, strict=True)]
            if None not in lines:
                (number, one), (_, other) = lines
                yield Translation(
                    self._words(source, number, one, self._source), self._words(target, number, other, self._target)
                )
        if ends[0] != ends[1]:
            counts = f"{source} has {ends[0]:,} lines and {target} {ends[1]:,}"
            raise DataError(f"{counts}; line n of one must be the translation of line n of the other")

    @staticmethod
    def _words(path: str, number: int, line: str, split: Split) -> Words:
        words = split(line)
        if not words:
            raise bad_line(path, number, "is empty; remove it from both files, so that the other lines stay paired")
        return words


def _split(tokenize: bool, language: str, lower: bool) -> Split:
    split: Split = OffsetTokenizer(language).words if tokenize else lambda line: tuple(line.split())
    return (lambda line: split(line.lower())) if lower else split
