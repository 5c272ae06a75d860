"""What all task networks have in common, and how a task is trained by default."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from pipeline.config.task_networks import EmbedderConfig
from pipeline.tasks.examples.types import Words
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.sequences import (
    Batch,
    Sequences,
    Tables,
    WordTable,
    WordVectors,
    choose_characters,
    choose_words,
)

Example = TypeVar("Example")
BatchOf = TypeVar("BatchOf", bound=Batch)
Prediction = TypeVar("Prediction")


class TaskNetwork(nn.Module, ABC, Generic[Example, BatchOf, Prediction]):
    """A network that gets examples of a task and predicts their labels.

    `make_batch` and `labels_of` need no weights, so that loader processes can use them. `embed` is the input of the
    lowest RNN; the network learns its width, and not what is in it.
    """

    def __init__(self, config: Any, embedder: Embedder, placement: ElmoPlacement, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.config, self.embedder, self.placement, self.labels = config, embedder, placement, labels
        self.input_dim = embedder.output_dim + placement.input_dim

    def embed(self, sequences: Sequences) -> Tensor:
        """(B, T, input_dim), zeros at padding."""
        return self.placement.at_input(self.embedder(sequences), sequences)

    @staticmethod
    @abstractmethod
    def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
        """Return the labels that a network trained on `examples` can predict, in the order of its output."""

    @staticmethod
    @abstractmethod
    def make_batch(examples: Sequence[Example], tables: Tables) -> BatchOf:
        """Turn examples into tensors."""

    @staticmethod
    def cut(example: Example, config: Any, chance: np.random.Generator) -> Example:
        """Return what a training step sees of an example. config: of the network. chance: of this step and example."""
        return example

    @abstractmethod
    def loss(self, batch: BatchOf) -> Tensor:
        """Return the loss, without the penalty on ELMo's weights."""

    @abstractmethod
    def predict(self, batch: BatchOf) -> list[Prediction]:
        """Return one prediction an example, in the terms of the example's type."""


def make_tables(
    config: EmbedderConfig,
    texts: Sequence[Words],
    labels: tuple[str, ...],
    vectors: WordVectors | None = None,
    seed: int = 0,
) -> tuple[Tables, np.ndarray | None]:
    """Return the tables of training texts, and the word vectors for the embedder (None with words="none").

    Fixed vectors: add the texts to predict to `texts`, or all words of the vectors, to know their words as well.
    """
    cnn = config.cnn
    characters = choose_characters(texts, cnn.min_count, cnn.max_characters, cnn.min_characters) if cnn else None
    if config.vectors == "none":
        return Tables(WordTable(()), characters, labels), None
    is_trained = config.vectors == "trained"
    words, values = choose_words(texts, config.case, vectors, is_trained, config.normalise, config.dim, seed)
    return Tables(words, characters, labels), values
