"""Words as rows of character ids: UTF-8 bytes between begin-of-word and end-of-word, padded.

Source: bilm-tf data.py:104-181 (UnicodeCharsVocabulary).
"""

import numpy as np

BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PAD = 256, 257, 258, 259, 260
NUM_CHARACTERS = 261


def character_rows(utf8: np.ndarray, offsets: np.ndarray, word_ids: np.ndarray, max_characters: int) -> np.ndarray:
    """Spell words by their place in a flat lexicon; ids 0 and 1 are the sentence bounds.

    utf8 (bytes,) uint8 and offsets (words + 1,) int64 hold all words end to end; word_ids (U,).
    Returns (U, max_characters) int16: [258, first max_characters - 2 bytes, 259, 260, ...].
    """
    utf8, offsets = np.asarray(utf8), np.asarray(offsets)  # a memory map's own indexing is slower
    starts = offsets.take(word_ids)
    lengths = np.minimum(offsets.take(word_ids + 1) - starts, max_characters - 2)
    places = np.arange(int(lengths.max(initial=1)))
    rows = np.full((len(word_ids), max_characters), PAD, dtype=np.int16)
    rows[:, 0] = BEGIN_WORD
    if len(utf8):
        found = utf8.take(starts[:, None] + places, mode="clip")  # past the last word of all
        np.copyto(rows[:, 1 : 1 + len(places)], found, where=places < lengths[:, None])
    rows[np.arange(len(word_ids)), lengths + 1] = END_WORD
    for place in np.flatnonzero(word_ids <= 1):
        rows[place, :3] = BEGIN_WORD, (BEGIN_SENTENCE, END_SENTENCE)[word_ids[place]], END_WORD
        rows[place, 3:] = PAD
    return rows


def spell(word: str, max_characters: int) -> np.ndarray:
    """The character row (max_characters,) of one word that is not a sentence bound."""
    utf8 = np.frombuffer(word.encode() or b"\0", dtype=np.uint8)
    # Three words end to end, the first two empty, so that the word's id is not a sentence bound's.
    offsets = np.array([0, 0, 0, len(word.encode())])
    return character_rows(utf8, offsets, np.array([2]), max_characters)[0]
