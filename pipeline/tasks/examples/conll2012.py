"""Read and write the rows of CoNLL-2012 files (OntoNotes), which hold semantic roles and coreference side by side.

Columns: 0 document, 1 part, 2 word number, 3 word, 4 tag, 5 parse, 6 predicate's lemma, 7 predicate's sense, 8 word
sense, 9 speaker, 10 entities, 11 and more the roles of each predicate, the last one coreference.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.tasks.examples.lines import bad_line, empty, read_lines

WORD, LEMMA, SENSE, SPEAKER, FIRST_ROLE = 3, 6, 7, 9, 11
NONE = "-"
_MIN_COLUMNS = 12
_BEGIN, _END = "#begin document", "#end document"


class Row(NamedTuple):
    """One word. line: its number in the file."""

    line: int
    fields: list[str]


class Part(NamedTuple):
    """A part of a document, the unit of coreference. line: where it begins. sentences: rows of each."""

    name: str
    line: int
    sentences: list[list[Row]]

    @property
    def genre(self) -> str:
        """Return the first folder of the document's name, such as bc, bn, mz, nw, pt, tc or wb."""
        return self.name.partition("/")[0] if "/" in self.name else ""


def is_conll2012(path: str | Path) -> bool:
    """Return True for a file of this format, False for JSON lines, by the first line. Raises DataError for others."""
    for line, text in read_lines(path):
        if text.strip():
            if not text.lstrip().startswith((_BEGIN, "{")):
                what = "is neither a JSON object nor #begin document; give JSON lines or a CoNLL-2012 file"
                raise bad_line(path, line, what)
            return text.startswith(_BEGIN)
    raise empty(path)


def read_parts(path: str | Path) -> Iterator[Part]:
    """Yield the parts of a file. Raises DataError for bounds or rows that do not fit together."""
    part: Part | None = None
    sentence: list[Row] = []
    for line, text in read_lines(path):
        fields = text.split()
        if text.startswith(_BEGIN):
            if part is not None:
                raise bad_line(path, line, f"begins a document inside that of line {part.line:,}; end it before")
            part = Part(_name_of(text, fields), line, [])
        elif part is None:
            if fields:
                raise bad_line(path, line, "stands before any #begin document line; this is no CoNLL-2012 file")
        elif text.startswith(_END) or not fields:
            if sentence:
                part.sentences.append(sentence)
                sentence = []
            if text.startswith(_END):
                yield part
                part = None
        else:
            sentence.append(_row(path, line, fields, sentence))
    if part is not None:
        raise bad_line(path, part.line, "begins a document that does not end; the file is cut short")


def rewritten(path: str | Path, columns: Iterator[list[str]], first: int, last: int | None) -> Iterator[str]:
    """Yield the lines of a file with its columns from `first` up to `last` (without it) replaced, row by row.

    columns: those of each word.
    """
    for _, text in read_lines(path):
        fields = text.split()
        if not fields or text.startswith("#"):
            yield text
        else:
            yield "\t".join([*fields[:first], *next(columns), *([] if last is None else fields[last:])])


def _name_of(text: str, fields: list[str]) -> str:
    """Return NAME_PART of a line "#begin document (NAME); part 000"."""
    name = text.partition("(")[2].rpartition(")")[0] or "document"
    return f"{name}_{int(fields[-1])}" if fields[-1].isdecimal() and "part" in fields else name


def _row(path: str | Path, line: int, fields: list[str], sentence: list[Row]) -> Row:
    if len(fields) < _MIN_COLUMNS:
        raise bad_line(path, line, f"has {len(fields)} columns; a word of CoNLL-2012 has at least {_MIN_COLUMNS}")
    if sentence and len(fields) != len(sentence[0].fields):
        what = f"has {len(fields)} columns, but its sentence begins with {len(sentence[0].fields)}; they must be equal"
        raise bad_line(path, line, what)
    return Row(line, fields)
