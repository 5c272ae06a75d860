"""Raw text to sentences and words, by spaCy's rule-based tokeniser and sentence splitter (no model, no download)."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from data_prep.files import DataError


class Tokenizer:
    """A line of running text becomes one sentence or several, each of words parted by single spaces.

    Words are split off by the language's rules in spaCy (punctuation, quotes, contractions, abbreviations such as
    Mr. and U.S. kept whole); a sentence ends after . ! ? and their like, with the quotes and brackets that close it.
    """

    def __init__(self, language: str = "en") -> None:
        self._nlp = _blank_pipeline(language)

    def split(self, text: str) -> tuple[str, np.ndarray]:
        """Whole lines of sentences, one a line, and (lines,) int64: how many came of each line of `text`.

        An empty line gives one empty line, so that documents stay apart.
        """
        parts = [self._sentences(doc) or [""] for doc in self._nlp.pipe(text.split("\n")[:-1], batch_size=256)]
        sentences = [sentence for part in parts for sentence in part]
        return "".join(sentence + "\n" for sentence in sentences), np.array([len(part) for part in parts], np.int64)

    def _sentences(self, doc: Iterable[Any]) -> list[str]:
        sentences: list[list[str]] = []
        for token in doc:
            if token.is_sent_start or not sentences:
                sentences.append([])
            sentences[-1] += token.text.split()  # a token may be or hold white space
        return [" ".join(words) for words in sentences if words]


def _blank_pipeline(language: str) -> Any:
    try:
        import spacy
    except ImportError:
        raise DataError("tokenize=true needs spaCy; pip install 'elmo-pipeline[text]' or give tokenised text") from None
    try:
        nlp = spacy.blank(language)
    except ImportError as error:
        raise DataError(
            f"language={language} is not usable ({error}); use a spaCy language code such as en, de, fr, "
            "and install what it names"
        ) from None
    nlp.add_pipe("sentencizer")
    nlp.max_length = 1 << 62  # spaCy's limit is for its models; lines are limited in corpus.py
    return nlp
