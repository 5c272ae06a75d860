"""F1 of entities as conlleval counts it (CoNLL-2003), and of semantic roles as srl-eval.pl does (CoNLL-2005)."""

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.tasks.examples.tags import split_tag
from pipeline.tasks.metrics.counts import TypedSpans

Spans = tuple[tuple[int, int], ...]
_BEGINS, _ENDS = frozenset("BSU"), frozenset("ESLU")
_EXCLUDED = frozenset(("V",))  # srl-eval.pl line 54


def spans_of(tags: Sequence[str]) -> list[tuple[str, tuple[int, int]]]:
    """Return (type, (first, last)) of each span in IOB1, IOB2, BIOES or BILOU tags, valid or not.

    As in conlleval, a tag that continues no span of its type begins one.
    """
    spans: list[tuple[str, tuple[int, int]]] = []
    before = ("O", "")
    for index, tag in enumerate(tags):
        prefix, kind = split_tag(tag)
        if tag != "O":
            if prefix in _BEGINS or before[0] in _ENDS or before[1] != kind:
                spans.append((kind, (index, index)))
            else:
                spans[-1] = kind, (spans[-1][1][0], index)
        before = prefix, kind
    return spans


def roles_of(tags: Sequence[str]) -> list[tuple[str, Spans]]:
    """Return (role, its pieces) of a predicate's BIO tags, without the predicate itself (V).

    A piece C-X belongs to the newest argument X before it; where there is none, it is an argument X of its own.
    """
    arguments: list[tuple[str, list[tuple[int, int]]]] = []
    newest: dict[str, list[tuple[int, int]]] = {}
    for kind, bounds in spans_of(tags):
        role = kind.removeprefix("C-")
        if role != kind and role in newest:
            newest[role].append(bounds)
        else:
            newest[role] = [bounds]
            arguments.append((role, newest[role]))
    return [(role, tuple(pieces)) for role, pieces in arguments if role not in _EXCLUDED]


class _TagF1:
    """F1 of the spans that `_spans_of` finds in tags."""

    _spans_of: Callable[[Sequence[str]], list[tuple[str, Any]]]

    def __init__(self) -> None:
        self._spans = TypedSpans()

    def update(self, gold: Sequence[str], predicted: Sequence[str]) -> None:
        """Add the tags of one sentence, or of one predicate."""
        assert len(gold) == len(predicted)
        self._spans.update(self._spans_of(gold), self._spans_of(predicted))

    def result(self) -> dict[str, float]:
        return self._spans.result()


class EntityF1(_TagF1):
    """Entity F1 over all sentences, as conlleval's FB1."""

    _spans_of = staticmethod(spans_of)


class RoleF1(_TagF1):
    """F1 of semantic roles over all predicates, as the Overall line of srl-eval.pl."""

    _spans_of = staticmethod(roles_of)
