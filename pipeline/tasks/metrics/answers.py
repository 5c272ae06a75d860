"""Exact match and F1 of answers, as evaluate-v1.1.py of SQuAD computes them.

torchmetrics' SQuAD follows version 2.0 where nothing of an answer is left after normalisation, so it is not used.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from pipeline.tasks.metrics.counts import PERCENT

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(answer: str) -> list[str]:
    """Return the words that count: lower case, without punctuation and articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split()


def word_f1(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Return the F1 of two bags of words, from 0 to 1."""
    same = sum((Counter(gold) & Counter(predicted)).values())
    if not same:
        return 0.0
    precision, recall = same / len(predicted), same / len(gold)
    return 2 * precision * recall / (precision + recall)


class AnswerScores:
    """Means over all questions of the best score against any gold answer. No answer, "", scores 0."""

    def __init__(self) -> None:
        self._exact = self._f1 = 0.0
        self._questions = 0

    def update(self, gold: Sequence[str], predicted: str) -> None:
        """Add one question. gold: its answers, at least one. predicted: "" for none."""
        self._questions += 1
        if predicted:
            words, golds = normalized(predicted), [normalized(answer) for answer in gold]
            self._exact += float(words in golds)
            self._f1 += max(word_f1(answer, words) for answer in golds)

    def result(self) -> dict[str, float]:
        total = max(1, self._questions)
        return {"exact_match": PERCENT * self._exact / total, "f1": PERCENT * self._f1 / total}
