"""Vocabularies: the words that a run predicts, with their counts, and target ids of a dataset's words.

A vocabulary is a prefix of the dataset's lexicon, or the words of another source. Words are in order of falling count,
which log-uniform candidates need (pipeline/model/sampler.py).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_prep.dataset.lexicon import BOS_ID, EOS_ID, NUM_SPECIALS, SPECIALS, UNK_ID, Lexicon
from data_prep.dataset.shards import Dataset
from pipeline.config.schema import DataConfig

_BLOCK_WORDS = 1 << 16


class Vocabulary:
    """Map lexicon ids to target ids: a prefix of the lexicon keeps its ids, any other word is <UNK>.

    mapping (lexicon words,) int32: target ids under the vocabulary of another source, from `vocabulary_map`.
    """

    def __init__(self, size: int, mapping: np.ndarray | None = None) -> None:
        self.size, self._mapping = size, mapping

    def targets(self, lexicon_ids: np.ndarray) -> np.ndarray:
        """Return the target ids, int64, of lexicon ids of any shape."""
        if self._mapping is not None:
            return self._mapping[lexicon_ids].astype(np.int64)
        return np.where(lexicon_ids < self.size, lexicon_ids, UNK_ID).astype(np.int64)


def vocabulary_of(words: list[str], lexicon: Lexicon) -> Vocabulary:
    """Return the vocabulary `words` for a dataset with this lexicon, which may be of another text."""
    if lexicon.words(0, len(words)) == words:
        return Vocabulary(len(words))
    return Vocabulary(len(words), vocabulary_map(lexicon, words))


def vocabulary_map(lexicon: Lexicon, words: list[str]) -> np.ndarray:
    """Return (lexicon words,) int32: the place of each word of the lexicon in `words`, <UNK> if it has none."""
    ids = {word: number for number, word in enumerate(words)}
    starts = range(0, len(lexicon), _BLOCK_WORDS)
    blocks = (lexicon.words(start, min(start + _BLOCK_WORDS, len(lexicon))) for start in starts)
    return np.concatenate([np.fromiter((ids.get(word, UNK_ID) for word in block), np.int32) for block in blocks])


def choose_vocabulary(dataset: Dataset, config: DataConfig) -> int:
    """Return the size of the vocabulary: words with data.vocab_min_count or more, at most data.vocab_size."""
    counts = dataset.lexicon.counts
    frequent = NUM_SPECIALS + int(np.count_nonzero(counts[NUM_SPECIALS:] >= config.vocab_min_count))
    return min(config.vocab_size, frequent)


@dataclass
class WeightedLexicon:
    """The lexicon of a training text. weight: how often an epoch of the run reads each token of the text."""

    lexicon: Lexicon
    weight: float = 1.0


def vocabulary_tensors(lexicon: Lexicon, size: int) -> dict[str, Tensor]:
    """Return a prefix of the lexicon as tensors for a checkpoint.

    words: UTF-8, joined by newlines. counts (size,): in training; those of all other words are added to <UNK>.
    """
    words = "\n".join(lexicon.words(0, size)).encode()
    assert len(words) == int(lexicon.offsets[size]) + size - 1
    counts = np.array(lexicon.counts[:size])
    counts[UNK_ID] += int(lexicon.counts[size:].sum())
    return _tensors(words, counts)


def words_of(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the words of `vocabulary_tensors`. Raises UnicodeDecodeError for damaged ones."""
    return bytes(tensors["words"].numpy()).decode().split("\n")


def tensors_of(words: list[str], counts: np.ndarray) -> dict[str, Tensor]:
    """Return any words and their counts (V,) as tensors for a checkpoint, in the form of `vocabulary_tensors`."""
    return _tensors("\n".join(words).encode(), counts)


def _tensors(words: bytes, counts: np.ndarray) -> dict[str, Tensor]:
    return {
        "words": torch.from_numpy(np.frombuffer(words, dtype=np.uint8).copy()),
        "counts": torch.from_numpy(np.asarray(counts, np.int64).copy()),
    }


def counts_of(words: list[str], texts: Iterable[WeightedLexicon]) -> np.ndarray:
    """Return (V,) float64: how often an epoch of the texts holds each word. Words not in the list count as <UNK>."""
    counts = np.zeros(len(words))
    for text in texts:
        mapping = vocabulary_map(text.lexicon, words)
        counts += text.weight * np.bincount(mapping, weights=text.lexicon.counts, minlength=len(words))
    return counts


def shares_of(counts: np.ndarray) -> np.ndarray:
    """Return (V,) float64: each word's share of all targets of both directions.

    Forward predicts </S> as often as backward predicts <S>, so each gets half of their sum.
    """
    shares = np.asarray(counts, np.float64) / max(1.0, float(np.sum(counts)))
    shares[[BOS_ID, EOS_ID]] = shares[[BOS_ID, EOS_ID]].sum() / 2
    return shares


def extended(words: list[str], new: list[str], texts: Iterable[WeightedLexicon]) -> list[str]:
    """Return `words` and those of `new` that are not among them, by falling count in the texts; the sort is stable."""
    known = set(words)
    merged = [*words, *(word for word in new if word not in known)]
    assert tuple(merged[:NUM_SPECIALS]) == SPECIALS
    order = np.argsort(-counts_of(merged, texts)[NUM_SPECIALS:], kind="stable") + NUM_SPECIALS
    return [*SPECIALS, *(merged[place] for place in order)]


def rows_in(words: list[str], source: list[str]) -> np.ndarray:
    """Return (V,) int64: the place of each word in `source`, -1 if it has none."""
    places = {word: place for place, word in enumerate(source)}
    return np.array([places.get(word, -1) for word in words], np.int64)
