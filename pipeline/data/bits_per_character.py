"""Bits per character: compare models that have different vocabularies.

A model that predicts <UNK> has not predicted the word itself. So the cost of spelling the word is added: each byte, and
the end of the word, costs -log of its share among the word types of the text's own training split (add-one smoothed).
A model then gives a probability to every text, whatever its vocabulary. All models that are compared use the same costs
of bytes.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.dataset.lexicon import EOS_ID, NUM_SPECIALS, UNK_ID, Lexicon
from data_prep.dataset.shards import Split
from pipeline.data.windows import Vocabulary

_BYTES = 256


@dataclass(frozen=True)
class SpellingCost:
    """The cost of spelling a split's unknown words. characters: of all words, with a space or line end after each.

    unknown: words (tokens, not types) outside the vocabulary, without the text's own <UNK>. nats: cost of spelling all
    of these and the text's own <UNK>.
    """

    characters: int
    words: int
    unknown: int
    nats: float

    def bits_per_character(self, nats: float) -> float:
        """Return bits per character. nats: loss of all targets of one direction, sentence ends and <UNK> included."""
        return (nats + self.nats) / np.log(2) / self.characters


def spelling_cost(split: Split, lexicon: Lexicon, vocabulary: Vocabulary) -> SpellingCost:
    """Return the cost of spelling the words of the split that are unknown under the vocabulary."""
    counts = np.zeros(len(lexicon), np.int64)
    for chunk in range(split.num_chunks):
        ids, times = np.unique(split.chunk(chunk), return_counts=True)
        counts[ids] += times
    counts[EOS_ID] = 0
    used = np.flatnonzero(counts)
    unknown = vocabulary.targets(used) == UNK_ID
    letters = letter_nats(lexicon)
    characters, nats = 0, 0.0
    for word, is_unknown in zip(used.tolist(), unknown.tolist(), strict=True):
        spelled = lexicon.word(word)
        characters += int(counts[word]) * (len(spelled) + 1)
        if is_unknown:
            nats += int(counts[word]) * (sum(letters[byte] for byte in spelled.encode()) + letters[_BYTES])
    outside = used[unknown & (used != UNK_ID)]
    return SpellingCost(characters, int(counts.sum()), int(counts[outside].sum()), float(nats))


def letter_nats(lexicon: Lexicon) -> np.ndarray:
    """Return (257,) float64: nats of each byte, then of the end of a word, by the types of the training split."""
    first, end = NUM_SPECIALS, NUM_SPECIALS + int(np.count_nonzero(lexicon.counts[NUM_SPECIALS:]))
    text = lexicon.utf8[lexicon.offsets[first] : lexicon.offsets[end]]
    counts = np.append(np.bincount(text, minlength=_BYTES), end - first) + 1.0
    return np.log(counts.sum()) - np.log(counts)
