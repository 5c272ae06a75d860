"""Precision, recall and F1 from sums of counts, and accuracy. All results are in percent, as official scorers print."""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

PERCENT = 100.0


@dataclass
class PrecisionRecall:
    """Sums of numerators and denominators; a quotient with denominator 0 is 0, as in all official scorers."""

    precision_sum: float = 0.0
    precision_of: float = 0.0
    recall_sum: float = 0.0
    recall_of: float = 0.0

    @property
    def precision(self) -> float:
        return PERCENT * self.precision_sum / self.precision_of if self.precision_of else 0.0

    @property
    def recall(self) -> float:
        return PERCENT * self.recall_sum / self.recall_of if self.recall_of else 0.0

    @property
    def f1(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0

    def result(self) -> dict[str, float]:
        return {"precision": self.precision, "recall": self.recall, "f1": self.f1}


class TypedSpans:
    """Micro-averaged F1 of typed spans, which are right if type and bounds are; and F1 of each type."""

    def __init__(self) -> None:
        self._right: dict[str, int] = defaultdict(int)
        self._gold: dict[str, int] = defaultdict(int)
        self._predicted: dict[str, int] = defaultdict(int)

    def update(self, gold: Collection[tuple[str, Any]], predicted: Collection[tuple[str, Any]]) -> None:
        """Add the spans of one sentence: (type, bounds)."""
        for counts, spans in ((self._gold, Counter(gold)), (self._predicted, Counter(predicted))):
            for (kind, _), number in spans.items():
                counts[kind] += number
        for (kind, _), number in (Counter(gold) & Counter(predicted)).items():
            self._right[kind] += number

    def result(self) -> dict[str, float]:
        """Return precision, recall and f1, and "f1/TYPE" of each type."""
        kinds = sorted(self._gold.keys() | self._predicted.keys())
        of_kind = {f"f1/{kind}": self._sum([kind]).f1 for kind in kinds}
        return self._sum(kinds).result() | of_kind

    def _sum(self, kinds: Sequence[str]) -> PrecisionRecall:
        right, gold, predicted = (
            sum(counts.get(kind, 0) for kind in kinds) for counts in (self._right, self._gold, self._predicted)
        )
        return PrecisionRecall(right, predicted, right, gold)


class Accuracy:
    """The share of labels that are right, over all items of all updates: tags of words, or classes of sentences."""

    def __init__(self) -> None:
        self._right = self._all = 0

    def update(self, gold: Sequence[str], predicted: Sequence[str]) -> None:
        """Add labels of the same items."""
        self._right += sum(a == b for a, b in zip(gold, predicted, strict=True))
        self._all += len(gold)

    def result(self) -> dict[str, float]:
        return {"accuracy": PERCENT * self._right / self._all if self._all else 0.0}
