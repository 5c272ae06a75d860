"""Precision, recall and F1 of word senses, as Scorer.java of Raganato et al. 2017 has them."""

from collections.abc import Collection

from pipeline.tasks.metrics.counts import PrecisionRecall


class SenseScores:
    """An answered instance counts as the share of its given keys that are right; precision is over answered ones."""

    def __init__(self) -> None:
        self._ok = 0.0
        self._answered = self._gold = 0

    def update(self, gold: Collection[str], given: Collection[str]) -> None:
        """Add an instance. given: no key where it is not answered."""
        self._gold += 1
        if given:
            self._answered += 1
            self._ok += sum(key in gold for key in given) / len(given)

    def result(self) -> dict[str, float]:
        return PrecisionRecall(self._ok, self._answered, self._ok, self._gold).result()
