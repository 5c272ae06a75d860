"""MUC, B3 and CEAF_e of coreference as the CoNLL-2012 scorer (v8.01) computes them, and the mean of their F1.

Numerators and denominators are summed over documents. Sources: Vilain et al. 1995 (MUC), Bagga and Baldwin 1998 (B3),
Luo 2005 (CEAF with phi4); Pradhan et al. 2014 for mentions that only one side has.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.tasks.metrics.counts import PrecisionRecall

Clusters = Sequence[Sequence[Hashable]]


class _Counts(NamedTuple):
    """Numerators and denominators of a metric in one document."""

    recall: float
    recall_of: float
    precision: float
    precision_of: float


class CorefScores:
    """The three metrics over all documents."""

    def __init__(self) -> None:
        self._sums = {name: PrecisionRecall() for name in _METRICS}

    def update(self, gold: Clusters, predicted: Clusters) -> None:
        """Add the clusters of mentions of one document. Clusters of one mention count, as in the scorer.

        A mention that is predicted twice counts where it stands first.
        """
        predicted = _without_repeats(predicted)
        for name, metric in _METRICS.items():
            counts, sums = metric(gold, predicted), self._sums[name]
            sums.recall_sum, sums.recall_of = sums.recall_sum + counts.recall, sums.recall_of + counts.recall_of
            sums.precision_sum += counts.precision
            sums.precision_of += counts.precision_of

    def result(self) -> dict[str, float]:
        """Return f1, the mean of the three F1s, and "muc/recall" and so on."""
        parts = {f"{name}/{key}": value for name, sums in self._sums.items() for key, value in sums.result().items()}
        return {"f1": sum(sums.f1 for sums in self._sums.values()) / len(self._sums)} | parts


def muc(gold: Clusters, predicted: Clusters) -> _Counts:
    """Return the predicted links between mentions of one gold cluster, and all links of each side."""
    place = _places(gold)
    common = 0
    for cluster in predicted:
        found = [place[mention] for mention in cluster if mention in place]
        common += len(found) - len(set(found))
    gold_links, predicted_links = (sum(len(cluster) - 1 for cluster in side) for side in (gold, predicted))
    return _Counts(common, gold_links, common, predicted_links)


def b_cubed(gold: Clusters, predicted: Clusters) -> _Counts:
    """Return for each side the sum, over mentions of both sides, of the share of its cluster that both sides have."""
    gold_place, predicted_place = _places(gold), _places(predicted)
    pairs = Counter((gold_place[mention], place) for mention, place in predicted_place.items() if mention in gold_place)
    recall = precision = 0.0
    for (a, b), mentions in pairs.items():
        common = len(set(gold[a]).intersection(predicted[b]))
        recall += mentions * common / len(gold[a])
        precision += mentions * common / len(predicted[b])
    return _Counts(recall, sum(map(len, gold)), precision, sum(map(len, predicted)))


def ceaf_e(gold: Clusters, predicted: Clusters) -> _Counts:
    """Return the sum of phi4 over the best one-to-one alignment of clusters, and the numbers of clusters."""
    from scipy.optimize import linear_sum_assignment  # takes half a second to import

    place = _places(predicted)
    phi4 = np.zeros((len(gold), len(predicted)))
    for row, cluster in enumerate(gold):
        for column, common in Counter(place[mention] for mention in cluster if mention in place).items():
            phi4[row, column] = 2 * common / (len(cluster) + len(predicted[column]))
    best = float(phi4[linear_sum_assignment(phi4, maximize=True)].sum())
    return _Counts(best, len(gold), best, len(predicted))


_METRICS = {"muc": muc, "b_cubed": b_cubed, "ceaf_e": ceaf_e}


def _places(clusters: Clusters) -> dict[Hashable, int]:
    """Return the number of each mention's cluster, of the last one where the gold data has a mention twice."""
    return {mention: number for number, cluster in enumerate(clusters) for mention in cluster}


def _without_repeats(clusters: Clusters) -> Clusters:
    """Return clusters with the first place of each mention only, without those that become empty, as the scorer."""
    seen: set[Hashable] = set()
    kept: dict[int, list[Hashable]] = defaultdict(list)
    for number, cluster in enumerate(clusters):
        for mention in cluster:
            if mention not in seen:
                seen.add(mention)
                kept[number].append(mention)
    return list(kept.values())
