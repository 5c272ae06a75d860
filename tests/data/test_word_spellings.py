"""Cached character ids equal freshly computed ones, for any history of the cache."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dataset.lexicon import SPECIALS, Lexicon
from pipeline.characters import character_rows
from pipeline.data.word_spellings import WordSpellings
from tests.data.corpora import many

WORDS = [*SPECIALS, *(f"w{number}" for number in range(40))]
LEXICON = Lexicon.from_words(WORDS, np.zeros(len(WORDS)))
some_words = st.lists(st.integers(0, len(WORDS) - 1), max_size=30)


@many
@given(st.integers(0, 9), st.integers(0, 6), st.lists(st.tuples(some_words, some_words), min_size=1, max_size=6))
def test_character_ids_are_right_for_any_content_of_the_cache(
    frequent: int, room: int, asked: list[tuple[list[int], list[int]]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.data.word_spellings._FREQUENT_WORDS", frequent)
        patch.setattr("pipeline.data.word_spellings._RARE_WORDS", room)
        spellings = WordSpellings(LEXICON, 20)
        for expected, words in asked:
            spellings.prefetch(np.array([expected], dtype=np.int32))
            unique = np.array(list(dict.fromkeys(words)), dtype=np.intp)
            assert np.array_equal(spellings.spell(unique), character_rows(LEXICON.utf8, LEXICON.offsets, unique, 20))


def test_rare_words_leave_the_cache_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.data.word_spellings._FREQUENT_WORDS", 5)
    monkeypatch.setattr("pipeline.data.word_spellings._RARE_WORDS", 4)
    spellings = WordSpellings(LEXICON, 20)
    for word in range(len(WORDS)):
        spellings.spell(np.array([word]))
        assert len(spellings._rows) == 1 + 5 + 4 and np.count_nonzero(spellings._row) <= 5 + 4
