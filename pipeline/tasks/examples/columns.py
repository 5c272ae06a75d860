"""Read and write CoNLL columns: a word a line, its tag in another column, an empty line after each sentence.

Columns are separated by TAB if the file's first word has one after it, otherwise by white space. Left out: -DOCSTART-
lines, which end a sentence, and of CoNLL-U files comments, multiword tokens and empty nodes.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from data_prep.dataset.files import DataError
from pipeline.tasks.examples.lines import bad_line, empty, read_lines, write_lines
from pipeline.tasks.examples.tags import Scheme, TagFault, check_form, find_scheme, from_bioes, to_bioes
from pipeline.tasks.examples.types import TaggedSentence

_DOCUMENT_START = "-DOCSTART-"
_CONLLU_COLUMNS = 10
_NOT_A_WORD = re.compile(r"\d+[-.]\d+")  # CoNLL-U's number of a multiword token (1-2) or of an empty node (8.1)


class _Row(NamedTuple):
    """fields: empty at a sentence's end, None for a line that is left out."""

    line: int
    text: str
    fields: list[str] | None


def read_columns(
    path: str | Path, word_column: int = 0, tag_column: int | None = -1, entities: bool = False
) -> list[TaggedSentence]:
    """Return the sentences of a file. Columns count from 0, or from -1 back from the last one.

    tag_column: None for text without tags. entities: the tags are entities, in IOB1, IOB2, BIOES or BILOU, and are
    returned in BIOES. Raises DataError.
    """
    sentences: list[TaggedSentence] = []
    lines: list[list[int]] = []
    for rows in _sentences(path, (word_column, *(() if tag_column is None else (tag_column,)))):
        words = tuple(fields[word_column] for _, fields in rows)
        tags = () if tag_column is None else tuple(fields[tag_column] for _, fields in rows)
        sentences.append(TaggedSentence(words, tags))
        lines.append([line for line, _ in rows])
    if not sentences:
        raise empty(path)
    return _in_bioes(path, sentences, lines) if entities and tag_column is not None else sentences


def scheme_of(path: str | Path, tag_column: int = -1) -> Scheme:
    """Return the scheme of a file's entity tags."""
    return _scheme(path, ([fields[tag_column] for _, fields in rows] for rows in _sentences(path, (tag_column,))))


def write_columns(
    source: str | Path, path: str | Path, tags: Sequence[Sequence[str]], scheme: Scheme | None = None
) -> None:
    """Write the lines of `source` with one more column: the predicted tags of each of its sentences.

    scheme: turn entity tags from BIOES into this scheme. conlleval reads the result if the gold tags were the last
    column.
    """
    converted = [from_bioes(sequence, scheme) if scheme else sequence for sequence in tags]
    write_lines(path, _with_column(source, iter(converted)))


def _with_column(source: str | Path, tags: Iterator[Sequence[str]]) -> Iterator[str]:
    separator = _separator_of(source)
    left: list[str] = []
    for row in _rows(source):
        if row.fields:
            left = left or list(reversed(next(tags)))
            yield f"{row.text}\t{left.pop()}" if separator else f"{row.text.rstrip()} {left.pop()}"
        else:
            assert not left or row.fields is None, "more tags than words of a sentence"
            yield row.text
    assert not left and next(tags, None) is None, "more sentences of tags than of words"


def _rows(path: str | Path) -> Iterator[_Row]:
    separator = _separator_of(path)
    for line, text in read_lines(path):
        if not text.strip() or text.startswith(_DOCUMENT_START):
            yield _Row(line, text, [])
            continue
        fields = [field.strip() for field in text.split(separator)]
        is_comment = separator is not None and text.startswith("#") and separator not in text
        is_left_out = is_comment or _is_conllu_extra(fields) or _is_document_bound(text)
        yield _Row(line, text, None if is_left_out else fields)


def _separator_of(path: str | Path) -> str | None:
    """Return TAB, or None for white space, by the first line that is surely a word's."""
    for _, text in read_lines(path):
        if text.strip() and not text.startswith(("#", _DOCUMENT_START)):
            return "\t" if "\t" in text else None
    return "\t"


def _is_conllu_extra(fields: list[str]) -> bool:
    return len(fields) == _CONLLU_COLUMNS and _NOT_A_WORD.fullmatch(fields[0]) is not None


def _is_document_bound(text: str) -> bool:
    return text.startswith(("#begin document", "#end document"))


def _sentences(path: str | Path, columns: tuple[int, ...]) -> Iterator[list[tuple[int, list[str]]]]:
    """Yield each sentence as (line, fields) of its words. Raises DataError for rows that do not fit together."""
    sentence: list[tuple[int, list[str]]] = []
    width = first = 0
    for line, text, fields in _rows(path):
        if fields:
            if not width:
                width, first = len(fields), line
                _check_columns(path, width, columns)
            if len(fields) != width:
                what = f"has {len(fields)} columns, but line {first:,} has {width}; every word needs the same columns"
                raise bad_line(path, line, what)
            if "" in (fields[column] for column in columns):
                raise bad_line(path, line, f"has an empty word or tag ({text!r}); fill it or remove the line")
            sentence.append((line, fields))
        elif fields is not None and sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _check_columns(path: str | Path, width: int, columns: tuple[int, ...]) -> None:
    for column in columns:
        if not -width <= column < width:
            raise DataError(f"{path} has {width} columns, but column {column} is asked for; count them from 0")
    places = [column % width for column in columns]
    if len(set(places)) < len(places):
        raise DataError(f"{path} has {width} columns, and column {places[0]} would be both word and tag; name another")


def _in_bioes(path: str | Path, sentences: list[TaggedSentence], lines: list[list[int]]) -> list[TaggedSentence]:
    for sentence, numbers in zip(sentences, lines, strict=True):
        with _faults_at(path, numbers):
            check_form(sentence.tags)
    scheme = _scheme(path, (sentence.tags for sentence in sentences))
    converted = []
    for sentence, numbers in zip(sentences, lines, strict=True):
        with _faults_at(path, numbers):
            converted.append(TaggedSentence(sentence.words, to_bioes(sentence.tags, scheme)))
    return converted


def _scheme(path: str | Path, sequences: Iterable[Sequence[str]]) -> Scheme:
    try:
        return find_scheme(sequences)
    except TagFault as fault:
        raise DataError(f"{path}: {fault}") from None


@contextmanager
def _faults_at(path: str | Path, lines: list[int]) -> Iterator[None]:
    """Turn a TagFault of a sentence into the error of its line. lines: of each word."""
    try:
        yield
    except TagFault as fault:
        raise bad_line(path, lines[fault.index], f"has a tag that does not fit: {fault}") from None
