"""The spaCy component `elmo`: `nlp.add_pipe("elmo", config={"model": "models/first"})` fills `doc.tensor`.

spaCy imports this file for each pipeline that it makes (entry point `spacy_factories`), so the model comes later.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc, Token

if TYPE_CHECKING:
    from pipeline.integrations.word_vectors import WordVectors

_MODEL = "model"


class ElmoComponent:
    """Write a vector of each token into `doc.tensor` (tokens, width) and `token._.elmo`; zeros for white space.

    A sentence is encoded on its own where the pipeline sets sentence bounds; without bounds a document is one sentence.
    """

    def __init__(self, model: str, layers: str, device: str, save_model: bool) -> None:
        """save_model: whether `nlp.to_disk` writes the model too; otherwise it writes the name of it only."""
        self._location, self._layers, self._device, self._save_model = model, layers, device, save_model
        self._vectors: WordVectors | None = None
        if not Token.has_extension("elmo"):
            Token.set_extension("elmo", getter=lambda token: token.doc.tensor[token.i])

    def __call__(self, doc: Doc) -> Doc:
        return next(self.pipe([doc]))

    def pipe(self, stream: Iterable[Doc], batch_size: int = 128) -> Iterator[Doc]:
        """Yield the documents with their vectors, computed for `batch_size` documents at once."""
        documents = iter(stream)
        while batch := list(islice(documents, batch_size)):
            sentences = [[t for t in s if not t.is_space] for doc in batch for s in _sentences(doc)]
            model = self._load()
            for doc in batch:
                doc.tensor = np.zeros((len(doc), model.width), np.float32)
            for tokens, vectors in zip(sentences, model.of([[t.text for t in s] for s in sentences]), strict=True):
                if tokens:
                    tokens[0].doc.tensor[[t.i for t in tokens]] = vectors
            yield from batch

    def to_disk(self, path: str | Path, exclude: Iterable[str] = ()) -> None:
        """Write the model into `path`, if `save_model` is set. spaCy itself writes the config."""
        if self._save_model and _MODEL not in exclude:
            self._load().save(str(Path(path) / _MODEL))

    def from_disk(self, path: str | Path, exclude: Iterable[str] = ()) -> "ElmoComponent":
        """Use the model that `to_disk` wrote, if it wrote one; otherwise the one that the config names."""
        folder = Path(path) / _MODEL
        if folder.is_dir() and _MODEL not in exclude:
            self._location, self._vectors = str(folder), None
        return self

    def _load(self) -> "WordVectors":
        """Return the model, loaded on first use: where `from_disk` has it, the config's name may lead nowhere."""
        if self._vectors is None:
            from pipeline.integrations.word_vectors import WordVectors

            self._vectors = WordVectors(self._location, self._layers, self._device)
        return self._vectors


def _sentences(doc: Doc) -> list[Any]:
    return list(doc.sents) if doc.has_annotation("SENT_START") else [doc]


@Language.factory(
    "elmo",
    assigns=["doc.tensor", "token._.elmo"],
    default_config={"model": "", "layers": "average", "device": "cpu", "save_model": True},
)
def make_elmo(nlp: Language, name: str, model: str, layers: str, device: str, save_model: bool) -> ElmoComponent:
    """Make the component for spaCy, with the keys of `config` as arguments."""
    return ElmoComponent(model, layers, device, save_model)
