"""The character ids of words against plain Python."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dataset.lexicon import SPECIALS, Lexicon
from pipeline.characters import character_rows, spell
from tests.data import plain
from tests.data.corpora import many

lexicon_words = st.lists(st.text(min_size=1, max_size=70), max_size=20)


@many
@given(lexicon_words, st.integers(4, 60), st.data())
def test_character_ids_are_those_of_plain_python(words: list[str], max_characters: int, data: st.DataObject) -> None:
    every = [*SPECIALS, *words]
    lexicon = Lexicon.from_words(every, np.zeros(len(every)))
    ids = data.draw(st.lists(st.integers(0, len(every) - 1)))
    rows = character_rows(lexicon.utf8, lexicon.offsets, np.array(ids, dtype=np.int32), max_characters)
    assert rows.dtype == np.int16 and rows.shape == (len(ids), max_characters)
    assert rows.tolist() == [plain.spelled_id(word_id, every, max_characters) for word_id in ids]


@many
@given(st.text(max_size=70), st.integers(4, 60))
def test_a_word_by_itself_has_the_character_ids_that_it_has_in_a_lexicon(word: str, max_characters: int) -> None:
    assert spell(word, max_characters).tolist() == plain.spelled(word, max_characters)


@pytest.mark.parametrize(
    ("word", "characters"),
    [
        ("a", [97]),
        ("é", [0xC3, 0xA9]),
        ("😀", [0xF0, 0x9F, 0x98, 0x80]),
        ("x" * 48, [120] * 48),
        ("x" * 49, [120] * 48),
        ("x" * 47 + "é", [120] * 47 + [0xC3]),
        ("x" * 46 + "😀", [120] * 46 + [0xF0, 0x9F]),
        ("<S>", [60, 83, 62]),
    ],
)
def test_a_word_is_cut_after_48_bytes_even_inside_a_character(word: str, characters: list[int]) -> None:
    row = spell(word, 50).tolist()
    assert row == [258, *characters, 259] + [260] * (48 - len(characters))


def test_sentence_bounds_are_one_character_and_unk_is_spelled_out() -> None:
    lexicon = Lexicon.from_words(SPECIALS, [0, 0, 0])
    rows = character_rows(lexicon.utf8, lexicon.offsets, np.arange(3), 8).tolist()
    assert rows[0] == [258, 256, 259, 260, 260, 260, 260, 260]
    assert rows[1] == [258, 257, 259, 260, 260, 260, 260, 260]
    assert rows[2] == [258, *b"<UNK>", 259, 260]
