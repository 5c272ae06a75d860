"""Read and write SNLI: its JSON lines, or TSV, each with gold_label, sentence1 (premise) and sentence2 (hypothesis).

Pairs labelled "-", on which the annotators did not agree, are left out, as everybody does.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.typed_json import parse_json
from pipeline.tasks.examples.lines import bad_line, empty, read_lines, shown, write_lines
from pipeline.tasks.examples.raw_text import OffsetTokenizer
from pipeline.tasks.examples.types import SentencePair

log = logging.getLogger(__name__)
LABELS = ("entailment", "neutral", "contradiction")
UNDECIDED = "-"
_COLUMNS = ("gold_label", "sentence1", "sentence2")
_REMEDY = 'write {"gold_label": ..., "sentence1": ..., "sentence2": ...}'


class _Pair(TypedDict):
    sentence1: str
    sentence2: str
    gold_label: NotRequired[str]


class _Read(NamedTuple):
    """label: empty where there is none."""

    line: int
    label: str
    premise: str
    hypothesis: str


def read_sentence_pairs(path: str | Path, labelled: bool = True, language: str = "en") -> list[SentencePair]:
    """Return the pairs of a file, its raw text tokenised. labelled: labels are required. Raises DataError."""
    tokenizer = OffsetTokenizer(language)
    pairs: list[SentencePair] = []
    undecided = 0
    for read in _pairs(path):
        if labelled and read.label == UNDECIDED:
            undecided += 1
            continue
        if labelled and read.label not in LABELS:
            what = f"has the label {shown(read.label)}; labels are {', '.join(LABELS)}, and - for none"
            raise bad_line(path, read.line, what)
        premise, hypothesis = tokenizer.words(read.premise), tokenizer.words(read.hypothesis)
        if not premise or not hypothesis:
            raise bad_line(path, read.line, "has an empty sentence; remove it")
        pairs.append(SentencePair(premise, hypothesis, read.label if labelled else ""))
    if undecided:
        log.info("%s: left out %s pairs labelled -, on which annotators did not agree", path, f"{undecided:,}")
    if not pairs:
        raise empty(path)
    return pairs


def write_sentence_pairs(source: str | Path, path: str | Path, labels: Sequence[str]) -> None:
    """Write `source` with predicted labels, one for each of its pairs, in place of its own."""
    rewritten = _rewritten_json if _is_json(source) else _rewritten_tsv
    write_lines(path, rewritten(source, iter(labels)))


def _is_json(path: str | Path) -> bool:
    for _, text in read_lines(path):
        if text.strip():
            return text.lstrip().startswith("{")
    raise empty(path)


def _pairs(path: str | Path) -> Iterator[_Read]:
    if not _is_json(path):
        yield from _tsv_pairs(path)
        return
    for line, text in read_lines(path):
        if text.strip():
            pair: _Pair = parse_json(text.encode(), _Pair, f"{path}, line {line:,}", _REMEDY)
            yield _Read(line, pair.get("gold_label", ""), pair["sentence1"], pair["sentence2"])


def _tsv_pairs(path: str | Path) -> Iterator[_Read]:
    header: list[str] = []
    for line, text in read_lines(path):
        fields = text.split("\t")
        if not header:
            header = _header(path, line, fields)
        elif text.strip():
            if len(fields) != len(header):
                what = f"has {len(fields)} columns, but the header has {len(header)}; they must be equal"
                raise bad_line(path, line, what)
            label, premise, hypothesis = (fields[header.index(name)] if name in header else "" for name in _COLUMNS)
            yield _Read(line, label, premise, hypothesis)


def _header(path: str | Path, line: int, fields: list[str]) -> list[str]:
    missing = [name for name in _COLUMNS[1:] if name not in fields]
    if missing:
        what = f"is no header with {' and '.join(missing)} (columns found: {shown(', '.join(fields))}); give SNLI's TSV"
        raise bad_line(path, line, what)
    return fields


def _rewritten_json(source: str | Path, labels: Iterator[str]) -> Iterator[str]:
    for _, text in read_lines(source):
        if text.strip():
            pair: dict[str, Any] = json.loads(text)
            pair["gold_label"] = next(labels)
            yield json.dumps(pair, ensure_ascii=False)


def _rewritten_tsv(source: str | Path, labels: Iterator[str]) -> Iterator[str]:
    header: list[str] = []
    for _, text in read_lines(source):
        fields = text.split("\t")
        if not header:
            header = fields
            yield text if _COLUMNS[0] in header else f"{_COLUMNS[0]}\t{text}"
        elif text.strip():
            if _COLUMNS[0] in header:
                fields[header.index(_COLUMNS[0])] = next(labels)
                yield "\t".join(fields)
            else:
                yield "\t".join([next(labels), *fields])
