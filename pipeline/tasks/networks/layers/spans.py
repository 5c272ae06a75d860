"""Candidate spans of a document, their attentive sums, and the choice of the best that do not cross.

Sources: Lee et al. 2017; e2e-coref (branch e2e) coref_model.py:214-242 and coref_kernels.cc.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_DISTANCES = (1, 2, 3, 4, 5, 8, 16, 32, 64)  # first distance of each bin but the first: 0,1,2,3,4,5-7,8-15,...,64+
NUM_DISTANCE_BINS = len(_DISTANCES) + 1


def candidate_spans(sentence_lengths: Sequence[int], max_width: int) -> Tensor:
    """Return (spans, 2): first and last word of all spans of at most `max_width` words inside a sentence."""
    spans, begin = [], 0
    for length in sentence_lengths:
        end = begin + length
        spans += [(first, last) for first in range(begin, end) for last in range(first, min(first + max_width, end))]
        begin = end
    return torch.tensor(spans, dtype=torch.int64).view(-1, 2)


def span_attention(scores: Tensor, spans: Tensor, max_width: int) -> tuple[Tensor, Tensor]:
    """Return the words of each span and their weights, both (spans, max_width): the softmax of scores (words,)."""
    places = spans[:, :1] + torch.arange(max_width, device=spans.device)
    inside = places <= spans[:, 1:]
    places = places.clamp(max=len(scores) - 1)
    return places, torch.softmax(scores[places].masked_fill(~inside, -torch.inf), 1)


def weighted_words(x_wd: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """(spans, D): the weighted sum over each span's words, without a (spans, max_width, D) tensor."""
    return nn.functional.embedding_bag(places, x_wd, per_sample_weights=weights.to(x_wd.dtype), mode="sum")


def best_without_crossing(spans: Sequence[tuple[int, int]], scores: Sequence[float], most: int) -> list[int]:
    """Return the numbers of the best spans in order of position.

    Spans are taken by falling score. A span that crosses one taken before is left out; nested spans do not cross.
    """
    last_from: dict[int, int] = {}  # first word of a taken span -> its greatest last word
    first_to: dict[int, int] = {}  # last word -> its least first word
    taken: list[int] = []
    for number in sorted(range(len(spans)), key=lambda n: -scores[n]):
        if len(taken) == most:
            break
        first, last = spans[number]
        starts_inside = any(last_from.get(word, last) > last for word in range(first + 1, last + 1))
        ends_inside = any(first_to.get(word, first) < first for word in range(first, last))
        if not starts_inside and not ends_inside:
            taken.append(number)
            last_from[first] = max(last_from.get(first, last), last)
            first_to[last] = min(first_to.get(last, first), first)
    return sorted(taken, key=lambda n: spans[n])


def distance_bins(distances: Tensor) -> Tensor:
    """Return the bin of each distance, counted in kept spans."""
    return torch.bucketize(distances, torch.tensor(_DISTANCES, device=distances.device), right=True)
