"""Read and write PTB-style sentiment trees, one a line: (3 (2 It) (4 (2 's) (3 good))), a label at every node."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.tasks.examples.lines import bad_line, empty, read_lines, shown, write_lines
from pipeline.tasks.examples.types import LabelledSentence

LABELS = ("0", "1", "2", "3", "4")
_TOKEN = re.compile(r"\(|\)|[^() \t]+")
_ROOT = re.compile(r"\s*\(\s*[^\s()]+")
_ESCAPED = {"-LRB-": "(", "-RRB-": ")", "-LSB-": "[", "-RSB-": "]", "-LCB-": "{", "-RCB-": "}", r"\/": "/", r"\*": "*"}


def read_sentiment_trees(
    path: str | Path, phrases: bool = False, labels: Sequence[str] = LABELS
) -> list[LabelledSentence]:
    """Return each sentence with the label of its root; with phrases, every node of each tree, the sentence first.

    Brackets and slashes that the Treebank escapes (-LRB-) are turned back. Raises DataError.
    """
    known, sentences = frozenset(labels), []
    for line, text in read_lines(path):
        if text.strip():
            nodes = _nodes(path, line, text, known)
            sentences += nodes if phrases else nodes[:1]
    if not sentences:
        raise empty(path)
    return sentences


def write_sentiment_trees(source: str | Path, path: str | Path, labels: Sequence[str]) -> None:
    """Write `source` with the predicted label of each sentence at the root of its tree; other nodes keep theirs."""
    write_lines(path, _relabelled(source, iter(labels)))


def _relabelled(source: str | Path, labels: Iterator[str]) -> Iterator[str]:
    for _, text in read_lines(source):
        if text.strip():
            label = next(labels)
            yield _ROOT.sub(lambda _, label=label: f"({label}", text, count=1)  # type: ignore[misc]


def _nodes(path: str | Path, line: int, text: str, known: frozenset[str]) -> list[LabelledSentence]:
    """Return all nodes of a tree, a node before those below it. Each is a stretch of the sentence's words."""
    words: list[str] = []
    spans: list[list[int]] = []  # of each node: [first word, last word + 1]
    labels: list[str] = []
    open_nodes: list[int] = []
    tokens = _TOKEN.findall(text)
    for before, token in zip(["", *tokens], tokens, strict=False):
        if (not open_nodes and spans) or (not spans and token != "("):
            raise bad_line(path, line, f"is more than one tree, or none ({shown(text)}); write one tree a line")
        if token == "(":
            open_nodes.append(len(spans))
            spans.append([len(words), len(words)])
        elif token == ")":
            node = open_nodes.pop()
            spans[node][1] = len(words)
            if spans[node][0] == len(words):
                raise bad_line(path, line, f"has a node without words ({shown(text)}); remove the node")
        elif before == "(":
            if token not in known:
                what = f"has the label {shown(token)}; labels are {', '.join(sorted(known))}, after each ("
                raise bad_line(path, line, what)
            labels.append(token)
        else:
            words.append(_ESCAPED.get(token, token))
    if open_nodes:
        raise bad_line(path, line, f"has {len(open_nodes)} brackets that are not closed; the line is cut short")
    if len(labels) != len(spans):
        raise bad_line(path, line, f"has a node without a label ({shown(text)}); write a label after each (")
    return [LabelledSentence(tuple(words[a:b]), label) for (a, b), label in zip(spans, labels, strict=True)]
