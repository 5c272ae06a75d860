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
    starts = offsets[word_ids]
    lengths = np.minimum(offsets[word_ids + 1] - starts, max_characters - 2)
    width = int(lengths.max(initial=1))
    rows = np.full((len(word_ids), max_characters), PAD, dtype=np.int16)
    rows[:, 0] = BEGIN_WORD
    np.copyto(rows[:, 1 : 1 + width], _bytes_from(utf8, starts, width), where=np.arange(width) < lengths[:, None])
    rows[np.arange(len(word_ids)), lengths + 1] = END_WORD
    for word_id, character in ((0, BEGIN_SENTENCE), (1, END_SENTENCE)):
        rows[word_ids == word_id, :4] = (BEGIN_WORD, character, END_WORD, PAD)
        rows[word_ids == word_id, 4:] = PAD
    return rows


def _bytes_from(utf8: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
    """(U, width) uint8: the bytes from each start on, anything after the last byte of all."""
    last = len(utf8) - width
    found = np.lib.stride_tricks.sliding_window_view(utf8, width)[np.minimum(starts, last)]
    for row in np.flatnonzero(starts > last):  # the last few words of the lexicon
        found[row] = np.roll(found[row], last - starts[row])
    return found


def spell(word: str, max_characters: int) -> np.ndarray:
    """The character row (max_characters,) of one word that is not a sentence bound."""
    utf8 = np.frombuffer(word.encode() or b"\0", dtype=np.uint8)
    # Three words end to end, the first two empty, so that the word's id is not a sentence bound's.
    offsets = np.array([0, 0, 0, len(word.encode())])
    return character_rows(utf8, offsets, np.array([2]), max_characters)[0]
