"""Words as rows of character ids: begin-of-word, characters, end-of-word, padding.

Characters are UTF-8 bytes, as in bilm-tf (data.py:104-181, UnicodeCharsVocabulary). Some models of others have a
dictionary of Unicode characters instead. The ids of the bounds and of the padding are the same in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np

BEGIN_SENTENCE, END_SENTENCE, BEGIN_WORD, END_WORD, PAD = 256, 257, 258, 259, 260
NUM_CHARACTERS = 261
OOV = "<oov>"  # stands in a dictionary for all that is not in it


class Alphabet(Protocol):
    """bounds: the words that are read as the begin and the end of a sentence."""

    @property
    def bounds(self) -> tuple[str, str]: ...

    def rows(self, words: Sequence[str], max_characters: int) -> np.ndarray:
        """Return what the token encoder reads of each word, one row a word. words: first the two bounds."""


class Utf8Alphabet:
    """The bytes of UTF-8. A row is (max_characters,) int16. Characters that UTF-8 cannot hold are left out."""

    bounds: ClassVar = ("<S>", "</S>")

    def rows(self, words: Sequence[str], max_characters: int) -> np.ndarray:
        utf8 = [b"", b"", *(word.encode("utf-8", "ignore")[:max_characters] for word in words[2:])]
        offsets = np.concatenate([[0], np.cumsum([len(word) for word in utf8])])
        flat = np.frombuffer(b"".join(utf8) or b"\0", np.uint8)
        return character_rows(flat, offsets, np.arange(len(utf8)), max_characters)


UTF8 = Utf8Alphabet()


@dataclass(frozen=True)
class Dictionary:
    """Unicode characters and words that a model has vectors of, as in ELMoForManyLangs; both hold `<oov>`.

    Character k has the id k, from 256 on the id k + 5: the bounds and the padding have ids of their own. A row is
    (1 + max_characters,) int32: the number of the word in `words`, 0 without words, then its characters.
    word_dim: size of a word's vector, 0 without words.
    """

    characters: tuple[str, ...]
    words: tuple[str, ...] = ()
    word_dim: int = 0
    bounds: ClassVar = ("<bos>", "<eos>")

    @cached_property
    def num_characters(self) -> int:
        """Return the number of character ids; some may be unused."""
        return max(NUM_CHARACTERS, self.id_of(len(self.characters) - 1) + 1)

    @staticmethod
    def id_of(number: int) -> int:
        """Return the id of a character by its number in `characters`."""
        return number if number < BEGIN_SENTENCE else number + NUM_CHARACTERS - BEGIN_SENTENCE

    @cached_property
    def _character_ids(self) -> dict[str, int]:
        return {character: self.id_of(number) for number, character in enumerate(self.characters)}

    @cached_property
    def _word_numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def rows(self, words: Sequence[str], max_characters: int) -> np.ndarray:
        """Spell words. A word is cut before it is looked up, as ELMoForManyLangs does (elmo.py, read_list)."""
        if not all(isinstance(word, str) for word in words):
            raise TypeError
        ids, numbers = self._character_ids, self._word_numbers
        unknown = ids[OOV]
        rows = np.full((len(words), 1 + max_characters), PAD, np.int32)
        for row, word in zip(rows, words, strict=True):
            cut = word[: max_characters - 2]
            spelled = [ids.get(character, unknown) for character in cut]
            row[0] = numbers.get(cut, numbers[OOV]) if numbers else 0
            row[1 : len(spelled) + 3] = [BEGIN_WORD, *spelled, END_WORD]
        for row, bound in zip(rows, (BEGIN_SENTENCE, END_SENTENCE), strict=False):
            row[1:4] = BEGIN_WORD, bound, END_WORD
            row[4:] = PAD
        return rows


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
