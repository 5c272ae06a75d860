"""What it costs to spell out words that a vocabulary does not hold, so that models with other vocabularies compare.

A model that predicts <UNK> has not said which word it is. Here that is paid for: each unknown word is spelled byte by
byte, a byte and the end of the word each costing the log of its share among the word types of the text's own training
split (one more added to each count). With it a model gives a probability to every text, whatever its vocabulary, and
its bits a character are a bound on what the text costs. Two models that are compared spell by the same letters.
"""

from dataclasses import dataclass

import numpy as np

from data_prep.dataset.lexicon import EOS_ID, UNK_ID, Lexicon
from data_prep.dataset.shards import Split
from pipeline.data.windows import Vocabulary

_BYTES = 256


@dataclass(frozen=True)
class Spelling:
    """Of a split under a vocabulary. characters: of all words, with the space or line end after each.

    unknown: words (not types) outside the vocabulary, without the text's own <UNK>. nats: what it costs to spell all
    of those and each <UNK>: the letters tell these two apart.
    """

    characters: int
    words: int
    unknown: int
    nats: float

    def bits_a_character(self, nats: float) -> float:
        """nats: the loss of all targets of one direction, sentence ends and <UNK> included."""
        return (nats + self.nats) / np.log(2) / self.characters


def spelling_of(split: Split, lexicon: Lexicon, vocabulary: Vocabulary) -> Spelling:
    """Of every word of the split."""
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
    return Spelling(characters, int(counts.sum()), int(counts[outside].sum()), float(nats))


def letter_nats(lexicon: Lexicon) -> np.ndarray:
    """(257,) float64: what each byte costs, and last the end of a word, by the types of the training split."""
    first, end = UNK_ID + 1, int(np.count_nonzero(lexicon.counts[UNK_ID + 1 :])) + UNK_ID + 1
    text = lexicon.utf8[lexicon.offsets[first] : lexicon.offsets[end]]
    counts = np.append(np.bincount(text, minlength=_BYTES), end - first) + 1.0
    return np.log(counts.sum()) - np.log(counts)
