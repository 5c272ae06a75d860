"""A scikit-learn transformer: sentences in, one vector each out. It works in a Pipeline and with GridSearchCV."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.schema import require
from pipeline.integrations.word_vectors import WordVectors

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
except ImportError:
    raise ImportError(
        "pipeline.integrations.sklearn needs scikit-learn: pip install 'elmo-pipeline[sklearn]'"
    ) from None

Sentence = str | Sequence[str]


class ElmoTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Map sentences to the mean of their words' vectors, float32; zeros for a sentence without words.

    A sentence is a list of words, or a string with spaces between the words. Nothing is learned from them.
    """

    def __init__(
        self, model: str | Path = "", *, layers: str | int = "average", device: str = "cpu", batch_size: int = 256
    ) -> None:
        """model: a model folder, a run's folder, a checkpoint or ORG/NAME. batch_size: sentences computed at once.

        layers: average, top, a layer's number, or all: the layers side by side.
        """
        self.model, self.layers, self.device, self.batch_size = model, layers, device, batch_size

    def fit(self, X: Iterable[Sentence], y: Any = None) -> "ElmoTransformer":  # noqa: N803
        """Load the model. Raises ConfigError for wrong parameters."""
        self._load()
        return self

    def transform(self, X: Iterable[Sentence]) -> np.ndarray:  # noqa: N803
        """Return (sentences, width)."""
        require(not isinstance(X, str), "X is one string, not a list of sentences; write [X]")
        is_table = hasattr(X, "columns") or getattr(X, "ndim", 1) != 1  # its rows would become single words
        require(not is_table, 'X is a table, not a list of sentences; give one column, as X["text"]')
        sentences = [_words(row, sentence) for row, sentence in enumerate(X)]
        vectors = self._load()
        means = np.zeros((len(sentences), vectors.width), np.float32)
        for start in range(0, len(sentences), self.batch_size):
            for row, words in enumerate(vectors.of(sentences[start : start + self.batch_size]), start):
                if len(words):
                    means[row] = words.mean(0)
        return means

    def _load(self) -> WordVectors:
        """Return the model of the present parameters, loaded once; `set_params` may have changed them."""
        require(self.batch_size >= 1, f"batch_size={self.batch_size} must be at least 1")
        wanted = (self.model, self.layers, self.device)
        if getattr(self, "_loaded", (None, None))[0] != wanted:
            self._loaded = (wanted, WordVectors(*wanted))
            self._n_features_out = self._loaded[1].width
        return self._loaded[1]

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the model: a pickle holds the name of it, and loads it again on use."""
        return {name: value for name, value in super().__getstate__().items() if name != "_loaded"}

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array, tags.requires_fit = True, False, False
        return tags


def _words(row: int, sentence: Sentence) -> list[str]:
    if isinstance(sentence, str):
        return sentence.split()
    is_list = isinstance(sentence, Iterable) and not isinstance(sentence, bytes)
    words = list(sentence) if is_list else []
    remedy = "fill empty cells with an empty string"
    require(
        is_list and all(isinstance(word, str) for word in words),
        f"row {row} of X is {str(sentence)[:40]}, not a sentence: a string or a list of words; {remedy}",
    )
    return words
