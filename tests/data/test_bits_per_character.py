"""Bits per character against plain Python, and what makes them comparable between vocabularies."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset
from data_prep.prepare import prepare
from pipeline.data.bits_per_character import letter_nats, spelling_cost
from pipeline.data.vocabulary import Vocabulary
from tests.data import plain


@pytest.mark.parametrize("size", [3, 20, 10**6])
def test_characters_and_unknown_words_are_counted_and_unknown_words_are_spelled(prepared: Dataset, size: int) -> None:
    split, words = prepared.splits["heldout"], prepared.lexicon.words()
    text = [[words[i] for i in sentence] for chunk in plain.text_of(split) for sentence in chunk]
    unknown = [word for sentence in text for word in sentence if words.index(word) >= size]
    found = spelling_cost(split, prepared.lexicon, Vocabulary(size))
    assert found.characters == len("".join(" ".join(sentence) + "\n" for sentence in text))
    assert (found.words, found.unknown) == (sum(map(len, text)), len(unknown))
    letters = letter_nats(prepared.lexicon)
    expected = sum(letters[byte] for word in unknown for byte in [*word.encode(), 256])
    assert found.nats == pytest.approx(expected)
    assert found.bits_per_character(7.0) == pytest.approx((7.0 + expected) / math.log(2) / found.characters)


def test_letter_probabilities_come_from_training_words_and_none_is_zero(prepared: Dataset) -> None:
    lexicon, letters = prepared.lexicon, letter_nats(prepared.lexicon)
    assert np.exp(-letters).sum() == pytest.approx(1) and len(letters) == 257
    seen = [word for word, count in zip(lexicon.words()[3:], lexicon.counts[3:], strict=True) if count]
    assert 0 < len(seen) < len(lexicon) - 3  # some words occur only in held-out text
    counts = Counter(byte for word in seen for byte in [*word.encode(), 256])
    expected = [math.log(sum(counts.values()) + 257) - math.log(counts[byte] + 1) for byte in range(257)]
    assert letters == pytest.approx(expected)


def test_the_unk_words_of_a_text_are_spelled_but_not_counted_as_unknown(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a <UNK> a b\n<UNK> a\n")
    prepare([str(tmp_path / "a.txt")], tmp_path / "out", workers=1, show_progress=False)
    dataset = open_dataset(tmp_path / "out")
    found = spelling_cost(dataset.splits["train"], dataset.lexicon, Vocabulary(4))
    letters = letter_nats(dataset.lexicon)
    assert (found.words, found.unknown) == (6, 1)  # b is unknown: the last word of the vocabulary is a
    spelled = [*b"b", 256, *[*b"<UNK>", 256] * 2]
    assert found.nats == pytest.approx(sum(letters[byte] for byte in spelled))
