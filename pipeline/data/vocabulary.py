"""The words that a run predicts, with their counts: a prefix of its lexicon, or a vocabulary brought from elsewhere.

Words stand by falling count, as the log-uniform candidates want it (pipeline/model/sampler.py).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_prep.dataset.lexicon import BOS_ID, EOS_ID, SPECIALS, UNK_ID, Lexicon
from pipeline.data.windows import vocabulary_map


@dataclass
class Text:
    """Training text as words are counted in it: a lexicon, and how often the run reads each of its tokens an epoch."""

    lexicon: Lexicon
    weight: float = 1.0


def vocabulary_tensors(lexicon: Lexicon, size: int) -> dict[str, Tensor]:
    """A prefix of the lexicon as tensors that a checkpoint can hold.

    words: UTF-8, joined by newlines. counts (size,): in training, those of all other words under <UNK>.
    """
    words = "\n".join(lexicon.words(0, size)).encode()
    assert len(words) == int(lexicon.offsets[size]) + size - 1
    counts = np.array(lexicon.counts[:size])
    counts[UNK_ID] += int(lexicon.counts[size:].sum())
    return _tensors(words, counts)


def tensors_of(words: list[str], counts: np.ndarray) -> dict[str, Tensor]:
    """As `vocabulary_tensors`, of any words."""
    return _tensors("\n".join(words).encode(), counts)


def _tensors(words: bytes, counts: np.ndarray) -> dict[str, Tensor]:
    return {
        "words": torch.from_numpy(np.frombuffer(words, dtype=np.uint8).copy()),
        "counts": torch.from_numpy(np.asarray(counts, np.int64).copy()),
    }


def counts_of(words: list[str], texts: Iterable[Text]) -> np.ndarray:
    """(V,) float64: how often an epoch of the texts holds each word, all words that are not in the list as <UNK>."""
    counts = np.zeros(len(words))
    for text in texts:
        mapping = vocabulary_map(text.lexicon, words)
        counts += text.weight * np.bincount(mapping, weights=text.lexicon.counts, minlength=len(words))
    return counts


def shares_of(counts: np.ndarray) -> np.ndarray:
    """(V,) float64: of what both directions predict, in which </S> forward and <S> backward are equally frequent."""
    shares = np.asarray(counts, np.float64) / max(1.0, float(np.sum(counts)))
    shares[[BOS_ID, EOS_ID]] = shares[[BOS_ID, EOS_ID]].sum() / 2
    return shares


def extended(words: list[str], new: list[str], texts: Iterable[Text]) -> list[str]:
    """The words and those of `new` that are not among them, by falling count in the texts; equals as they stood."""
    known = set(words)
    merged = [*words, *(word for word in new if word not in known)]
    first = len(SPECIALS)
    assert tuple(merged[:first]) == SPECIALS
    order = np.argsort(-counts_of(merged, texts)[first:], kind="stable") + first
    return [*SPECIALS, *(merged[place] for place in order)]


def rows_in(words: list[str], source: list[str]) -> np.ndarray:
    """(V,) int64: where each word stands in `source`, -1 where it does not."""
    places = {word: place for place, word in enumerate(source)}
    return np.array([places.get(word, -1) for word in words], np.int64)
