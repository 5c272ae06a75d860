"""Read and write semantic roles: JSON lines (a sentence with its frames), or CoNLL-2012 files.

JSON: {"tokens": [WORD, ...], "frames": [{"pred": 3, "tags": ["B-ARG0", ...]}, ...]}; other keys are kept and ignored.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.typed_json import parse_json
from pipeline.tasks.examples.conll2012 import FIRST_ROLE, LEMMA, NONE, SENSE, WORD, Row, is_conll2012, read_parts
from pipeline.tasks.examples.conll2012 import rewritten as rewritten_conll
from pipeline.tasks.examples.lines import bad_line, empty, read_lines, write_lines
from pipeline.tasks.examples.tags import TagFault, check_bio, split_tag
from pipeline.tasks.examples.types import PredicateFrame

_REMEDY = 'write {"tokens": [...], "frames": [{"pred": number, "tags": [...]}]}'
_ROLE = re.compile(r"(?:\(([^()*]+))?\*(\))?")  # (ARG0* begins a role, * is inside or outside, *) ends it


class _Frame(TypedDict):
    pred: int
    tags: NotRequired[list[str]]


class _Sentence(TypedDict):
    tokens: list[str]
    frames: NotRequired[list[_Frame]]


def read_predicate_frames(path: str | Path, labelled: bool = True) -> list[PredicateFrame]:
    """Return the frames of a file, one a predicate. labelled: roles are required. Raises DataError."""
    read = _read_conll if is_conll2012(path) else _read_json
    frames = list(read(path, labelled))
    if not frames:
        raise empty(path)
    return frames


def write_predicate_frames(source: str | Path, path: str | Path, tags: Sequence[Sequence[str]]) -> None:
    """Write `source` with the predicted BIO tags of each of its frames in place of its roles."""
    rewritten = _rewritten_conll if is_conll2012(source) else _rewritten_json
    write_lines(path, rewritten(source, iter(tags)))


def _read_json(path: str | Path, labelled: bool) -> Iterator[PredicateFrame]:
    for line, text in read_lines(path):
        if not text.strip():
            continue
        sentence: _Sentence = parse_json(text.encode(), _Sentence, f"{path}, line {line:,}", _REMEDY)
        words = tuple(sentence["tokens"])
        if not words or "" in words:
            raise bad_line(path, line, "has no tokens, or an empty one; remove it")
        for frame in sentence.get("frames", []):
            yield _checked(path, line, words, frame["pred"], tuple(frame.get("tags", ())), labelled)


def _checked(
    path: str | Path, line: int, words: tuple[str, ...], predicate: int, tags: tuple[str, ...], labelled: bool
) -> PredicateFrame:
    if not 0 <= predicate < len(words):
        raise bad_line(path, line, f"has the predicate {predicate}, but its {len(words)} words count from 0")
    if not labelled:
        return PredicateFrame(words, predicate, ())
    if len(tags) != len(words):
        raise bad_line(path, line, f"has {len(tags)} tags for {len(words)} words; every word needs one in each frame")
    try:
        check_bio(tags)
    except TagFault as fault:
        what = f"has a tag that does not fit (predicate {predicate}, word {fault.index}): {fault}"
        raise bad_line(path, line, what) from None
    return PredicateFrame(words, predicate, tags)


def _rewritten_json(source: str | Path, tags: Iterator[Sequence[str]]) -> Iterator[str]:
    for _, text in read_lines(source):
        if not text.strip():
            continue
        sentence: dict[str, Any] = json.loads(text)
        for frame in sentence.get("frames", []):
            frame["tags"] = list(next(tags))
        yield json.dumps(sentence, ensure_ascii=False)


def _read_conll(path: str | Path, labelled: bool) -> Iterator[PredicateFrame]:
    for part in read_parts(path):
        for rows in part.sentences:
            words = tuple(row.fields[WORD] for row in rows)
            predicates, columns = _predicates(rows), range(FIRST_ROLE, len(rows[0].fields) - 1)
            if not labelled and not columns:
                yield from (PredicateFrame(words, predicate, ()) for predicate in predicates)
            for number, column in enumerate(columns):
                tags = _bio_of(path, rows, column)
                verbs = [index for index, tag in enumerate(tags) if tag == "B-V"]
                if not verbs and number >= len(predicates):
                    what = f"has no predicate for its roles in column {column}; mark it there with (V*)"
                    raise bad_line(path, rows[0].line, what)
                yield PredicateFrame(words, verbs[0] if verbs else predicates[number], tags if labelled else ())


def _predicates(rows: list[Row]) -> list[int]:
    return [i for i, row in enumerate(rows) if NONE not in (row.fields[LEMMA], row.fields[SENSE])]


def _bio_of(path: str | Path, rows: list[Row], column: int) -> tuple[str, ...]:
    """Return the BIO tags of a column of roles in brackets."""
    tags, role = [], ""
    for row in rows:
        found = _ROLE.fullmatch(row.fields[column])
        if found is None or (found[1] and role):
            what = f"has {row.fields[column]!r} in column {column}; write roles as (ROLE* ... *), none inside another"
            raise bad_line(path, row.line, what)
        tags.append(f"B-{found[1]}" if found[1] else f"I-{role}" if role else "O")
        role = found[1] or role
        if found[2]:
            if not role:
                raise bad_line(path, row.line, f"ends a role in column {column} that does not begin; open it")
            role = ""
    if role:
        raise bad_line(path, rows[-1].line, f"ends a sentence inside the role {role} of column {column}; close it")
    return tuple(tags)


def role_brackets(tags: Sequence[str]) -> list[str]:
    """Return BIO tags in the brackets of CoNLL-2005 and CoNLL-2012, one string a word."""
    found = []
    for index, tag in enumerate(tags):
        prefix, role = split_tag(tag)
        is_last = prefix != "O" and (index + 1 == len(tags) or tags[index + 1] != f"I-{role}")
        found.append(f"{f'({role}' if prefix == 'B' else ''}*{')' if is_last else ''}")
    return found


def _rewritten_conll(source: str | Path, tags: Iterator[Sequence[str]]) -> Iterator[str]:
    columns: list[list[str]] = []
    for part in read_parts(source):
        for rows in part.sentences:
            frames = [role_brackets(next(tags)) for _ in range(_num_frames(rows))]
            columns += [[frame[index] for frame in frames] for index in range(len(rows))]
    return rewritten_conll(source, iter(columns), FIRST_ROLE, -1)


def _num_frames(rows: list[Row]) -> int:
    """Return how many frames `_read_conll` returns for a sentence."""
    return max(len(rows[0].fields) - 1 - FIRST_ROLE, 0) or len(_predicates(rows))
