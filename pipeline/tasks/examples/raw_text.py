"""Split raw text into tokens whose places in the text are known, by the rules of `elmo prep tokenize=true`."""

from functools import lru_cache

from data_prep.text.tokenizer import Tokenizer
from pipeline.tasks.examples.types import Span, Words


class OffsetTokenizer:
    """Split running text into words; bounds of sentences are left out. language: a spaCy language code."""

    def __init__(self, language: str = "en") -> None:
        self._tokenizer = _tokenizer(language)

    def words(self, text: str) -> Words:
        lines, _ = self._tokenizer.split(text.replace("\n", " ") + "\n")
        return tuple(lines.split())

    def words_and_offsets(self, text: str) -> tuple[Words, tuple[Span, ...]]:
        """Return the words and (first character, last character + 1) of each."""
        words, offsets, end = self.words(text), [], 0
        for word in words:
            begin = text.index(word, end)
            assert not text[end:begin].strip(), "the tokenizer must not drop or change characters"
            end = begin + len(word)
            offsets.append((begin, end))
        return words, tuple(offsets)


@lru_cache(maxsize=1)
def _tokenizer(language: str) -> Tokenizer:
    return Tokenizer(language)  # loading spaCy's rules takes longer than splitting a thousand sentences
