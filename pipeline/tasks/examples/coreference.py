"""Read and write coreference: JSON lines (one document each), or CoNLL-2012 files.

JSON: {"doc": NAME, "sentences": [[WORD, ...], ...], "clusters": [[[first, last], ...], ...]} with word numbers of the
whole document, both ends included; "genre" and "speakers" (a name a word) are optional, other keys kept and ignored.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.files import DataError
from data_prep.dataset.typed_json import parse_json
from pipeline.tasks.examples.conll2012 import NONE, SPEAKER, WORD, Part, is_conll2012, read_parts
from pipeline.tasks.examples.conll2012 import rewritten as rewritten_conll
from pipeline.tasks.examples.lines import bad_line, empty, read_lines, write_lines
from pipeline.tasks.examples.types import CorefDocument, Span

Clusters = Sequence[Sequence[Span]]
_REMEDY = 'write {"doc": name, "sentences": [[word, ...], ...], "clusters": [[[first, last], ...], ...]}'


class _Document(TypedDict):
    doc: str
    sentences: list[list[str]]
    genre: NotRequired[str]
    speakers: NotRequired[list[list[str]]]
    clusters: NotRequired[list[list[list[int]]]]


def read_coreference(path: str | Path, labelled: bool = True) -> list[CorefDocument]:
    """Return the documents of a file. labelled: clusters are required. Raises DataError."""
    read = _read_conll if is_conll2012(path) else _read_json
    documents = list(read(path, labelled))
    if not documents:
        raise empty(path)
    if labelled and not any(document.clusters for document in documents):
        raise DataError(f"{path} has no cluster in any document; give a file with coreference")
    return documents


def write_coreference(source: str | Path, path: str | Path, clusters: Sequence[Clusters]) -> None:
    """Write `source` with the predicted clusters of each of its documents in place of its own."""
    rewritten = _rewritten_conll if is_conll2012(source) else _rewritten_json
    write_lines(path, rewritten(source, clusters))


def _read_json(path: str | Path, labelled: bool) -> Iterator[CorefDocument]:
    for line, text in read_lines(path):
        if not text.strip():
            continue
        found: _Document = parse_json(text.encode(), _Document, f"{path}, line {line:,}", _REMEDY)
        sentences = tuple(map(tuple, found["sentences"]))
        _check_words(path, line, sentences)
        if labelled and "clusters" not in found:
            raise bad_line(path, line, 'has no "clusters"; give a document with coreference')
        speakers = tuple(map(tuple, found.get("speakers", [[""] * len(words) for words in sentences])))
        if list(map(len, speakers)) != list(map(len, sentences)):
            raise bad_line(path, line, "has other numbers of speakers than of words; give a speaker a word")
        clusters = found.get("clusters", []) if labelled else []
        yield CorefDocument(
            found["doc"], found.get("genre", ""), sentences, speakers, _checked(path, line, sentences, clusters)
        )


def _check_words(path: str | Path, line: int, sentences: Sequence[Sequence[str]]) -> None:
    if not sentences or any(not words or "" in words for words in sentences):
        raise bad_line(path, line, "has no sentences, an empty sentence or an empty word; remove it")


def _checked(
    path: str | Path, line: int, sentences: Sequence[Sequence[str]], clusters: Sequence[Sequence[Sequence[int]]]
) -> tuple[tuple[Span, ...], ...]:
    """Return the clusters of a JSON document. Raises DataError for a span that is not inside the document."""
    num_words = sum(map(len, sentences))
    checked = []
    for cluster in clusters:
        for span in cluster:
            if len(span) != 2 or not 0 <= span[0] <= span[1] < num_words:
                what = f"has the span {list(span)}; a span is [first, last], from 0 to {num_words - 1}, in this order"
                raise bad_line(path, line, what)
        if not cluster:
            raise bad_line(path, line, "has a cluster without spans; remove it")
        checked.append(tuple((span[0], span[1]) for span in cluster))
    return tuple(checked)


def _rewritten_json(source: str | Path, clusters: Sequence[Clusters]) -> Iterator[str]:
    left = iter(clusters)
    for _, text in read_lines(source):
        if text.strip():
            document: dict[str, Any] = json.loads(text)
            document["clusters"] = [[list(span) for span in cluster] for cluster in next(left)]
            yield json.dumps(document, ensure_ascii=False)


def _read_conll(path: str | Path, labelled: bool) -> Iterator[CorefDocument]:
    for part in read_parts(path):
        sentences = tuple(tuple(row.fields[WORD] for row in rows) for rows in part.sentences)
        _check_words(path, part.line, sentences)
        speakers = tuple(
            tuple("" if row.fields[SPEAKER] == NONE else row.fields[SPEAKER] for row in rows) for rows in part.sentences
        )
        clusters = _clusters_of(path, part) if labelled else ()
        yield CorefDocument(part.name, part.genre, sentences, speakers, clusters)


def _clusters_of(path: str | Path, part: Part) -> tuple[tuple[Span, ...], ...]:
    """Return the clusters that the last column holds: (3 begins a mention of cluster 3, 3) ends the newest one."""
    clusters: dict[int, list[Span]] = defaultdict(list)
    begun: dict[int, list[tuple[int, int]]] = defaultdict(list)  # cluster: (word, line) of each open mention
    number = 0
    for row in (row for rows in part.sentences for row in rows):
        for bracket in filter(None, row.fields[-1].split("|")):
            name = bracket.removeprefix("(").removesuffix(")")
            if bracket == NONE:
                continue
            if not (name.isascii() and name.isdecimal()) or bracket == name:
                raise bad_line(path, row.line, f"has {row.fields[-1]!r} in its last column; write (3, 3), (3) or -")
            if bracket.startswith("("):
                begun[int(name)].append((number, row.line))
            if bracket.endswith(")"):
                if not begun[int(name)]:
                    raise bad_line(path, row.line, f"ends a mention of cluster {name} that does not begin; open it")
                clusters[int(name)].append((begun[int(name)].pop()[0], number))
        number += 1
    for cluster, mentions in begun.items():
        if mentions:
            raise bad_line(path, mentions[0][1], f"begins a mention of cluster {cluster} that does not end; close it")
    return tuple(tuple(sorted(spans)) for _, spans in sorted(clusters.items()))


def _rewritten_conll(source: str | Path, clusters: Sequence[Clusters]) -> Iterator[str]:
    parts = [sum(map(len, part.sentences)) for part in read_parts(source)]
    assert len(parts) == len(clusters), "clusters of every document are needed"
    columns = [
        [column] for words, found in zip(parts, clusters, strict=True) for column in mention_brackets(words, found)
    ]
    return rewritten_conll(source, iter(columns), -1, None)


def mention_brackets(num_words: int, clusters: Clusters) -> list[str]:
    """Return the last column of a CoNLL-2012 document, one string a word. Clusters are numbered in their order."""
    begins: dict[int, list[str]] = defaultdict(list)
    ends: dict[int, list[str]] = defaultdict(list)
    spans = sorted((first, -last, number) for number, cluster in enumerate(clusters) for first, last in cluster)
    for first, minus_last, number in spans:  # the longest of those that begin at a word is opened first
        if first == -minus_last:
            begins[first].append(f"({number})")
        else:
            begins[first].append(f"({number}")
            ends[-minus_last].insert(0, f"{number})")
    return ["|".join(ends[word] + begins[word]) or NONE for word in range(num_words)]
