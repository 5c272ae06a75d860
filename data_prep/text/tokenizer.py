"""Split raw text into sentences and words: spaCy's rule-based tokeniser (no model, no download), our sentence rule.

spaCy's own sentencizer is not used: it adds a straight quote that opens a sentence to the sentence before.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from data_prep.dataset.files import DataError

_TERMINAL = frozenset(".!?…؟।。！？")
_NEEDS_NO_SPACE = frozenset("。！？")
_OPENING = frozenset("「『“‘（(《")
_CLOSING = frozenset("»”’)]）」』》")  # belong to the sentence before, even after white space as French quotes do
_ENGLISH = "al Capt cf Col Cpl Esq ff Hon Lieut Lt Ltd Maj Messrs Mlle Mme Prof Pvt Sen Sgt vols"
_ABBREVIATIONS = {"en": frozenset(_ENGLISH.split())}  # spaCy splits their full stop off
_BEFORE_NUMBERS = frozenset(("No.", "Nos.", "Fig.", "Op.", "Vol.", "p.", "pp."))  # "No. 5", but "No. He did."
_ALWAYS_APART = ",;"  # a word followed by one of these is split into the word, often cached, and the mark
_CACHED_CHUNKS = 1 << 19
_MARKS = re.compile(r"[\W_]{1000}")  # spaCy's time grows with the square of their number


class _Chunk(NamedTuple):
    """Text between white space. text: its words, separated by spaces, or by a line end where a sentence ends."""

    text: str
    may_begin: bool
    may_end: bool


def _spellings(line: str) -> Iterator[str]:
    """Yield what stands between white space; very long runs of marks in pieces."""
    for spelling in line.split():
        if len(spelling) < 1000:
            yield spelling
        else:
            yield from _MARKS.sub(lambda found: f" {found[0]} ", spelling).split()


class Tokenizer:
    """Split each line of running text into sentences, with single spaces between words.

    Words follow spaCy's rules of the language: punctuation, quotes and contractions are split off; Mr. and U.S. stay
    whole. A sentence ends after . ! ? … and the quotes and brackets that follow without a space, if white space comes
    next and no lower-case letter after it. A line end always ends a sentence. An abbreviation never does, because
    "in the U.S. They ..." is ambiguous.
    """

    def __init__(self, language: str = "en") -> None:
        self._nlp = _spacy_pipeline(language)
        self._abbreviations = _ABBREVIATIONS.get(language, frozenset())
        self._chunks: dict[str, _Chunk] = {}

    def split(self, text: str) -> tuple[str, np.ndarray]:
        """Return the sentences of `text`, one per line, and (lines,) int64: how many sentences each line gave.

        An empty line gives one empty line, so that documents stay separate.
        """
        if len(self._chunks) > _CACHED_CHUNKS:
            self._chunks.clear()
        with self._nlp.memory_zone():  # without it spaCy keeps every word that it has seen
            lines = ["\n".join(self._sentences(line)) + "\n" for line in text.split("\n")[:-1]]
        return "".join(lines), np.array([line.count("\n") for line in lines], np.int64)

    def _sentences(self, line: str) -> Iterator[str]:
        """Yield the sentences of a line."""
        words: list[str] = []
        may_end, before = False, ""
        for spelling in _spellings(line):
            chunk = self._chunks.get(spelling) or self._chunk(spelling)
            if may_end and chunk.may_begin and not (before in _BEFORE_NUMBERS and spelling[0].isdigit()):
                yield " ".join(words)
                words = []
            words.append(chunk.text)
            may_end = chunk.may_end or (may_end and _CLOSING.issuperset(spelling))
            before = spelling
        if words:
            yield " ".join(words)

    def _chunk(self, spelling: str) -> _Chunk:
        stem = spelling[:1] + spelling[1:].rstrip(_ALWAYS_APART)
        if stem != spelling:
            before = self._chunks.get(stem) or self._chunk(stem)
            text = " ".join([before.text, *spelling[len(stem) :]])
            self._chunks[spelling] = chunk = before._replace(text=text)
            return chunk
        words = self._words(spelling)
        text, ended = "", False
        for word in words:
            starts_next = ended and (word[0].isalnum() or word[0] in _OPENING)
            text += ("\n" if starts_next else " " if text else "") + word
            ended = word[-1] in _NEEDS_NO_SPACE or (ended and not starts_next)
        last = max((i for i, word in enumerate(words) if word[0].isalnum()), default=-1)
        may_end = any(_TERMINAL.issuperset(word) for word in words[last + 1 :])
        may_begin = not spelling[0].islower() and not _CLOSING.issuperset(spelling)
        self._chunks[spelling] = chunk = _Chunk(text, may_begin, may_end)
        return chunk

    def _words(self, spelling: str) -> list[str]:
        """Return the words of a chunk; an abbreviation keeps its full stop."""
        words: list[str] = []
        for token in self._nlp.tokenizer(spelling):
            if token.text == "." and words and words[-1] in self._abbreviations:
                words[-1] += "."
            else:
                words += token.text.split()
        return words


def _spacy_pipeline(language: str) -> Any:
    try:
        import spacy
    except ImportError:
        raise DataError("tokenize=true needs spaCy; pip install 'elmo-pipeline[text]' or give tokenised text") from None
    try:
        return spacy.blank(language)
    except ImportError as error:
        raise DataError(
            f"language={language} is not usable ({error}); use a spaCy language code such as en, de or fr, and "
            "install what it names"
        ) from None
