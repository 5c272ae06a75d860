"""Sequences of words as tensors, and the tables that number words, characters and labels."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.tasks.examples.types import Words

PADDING, UNKNOWN = 0, 1  # rows of every table before its own entries
Case = Literal["keep", "lower", "keep_then_lower"]
WordVectors = tuple[Mapping[str, int], np.ndarray]  # word -> row, and the (V, D) array
AnyBatch = TypeVar("AnyBatch", bound="Batch")


@dataclass(frozen=True)
class WordTable:
    """The words that have a vector; entry k stands in row k + 2.

    case: look a word up as it is, in lower case, or as it is and, where that fails, in lower case.
    """

    words: tuple[str, ...]
    case: Case = "keep"

    @cached_property
    def rows(self) -> dict[str, int]:
        return {word: row for row, word in enumerate(self.words, start=UNKNOWN + 1)}

    def ids(self, words: Iterable[str]) -> list[int]:
        return [
            next((self.rows[form] for form in forms(word, self.case) if form in self.rows), UNKNOWN) for word in words
        ]


def forms(word: str, case: Case) -> tuple[str, ...]:
    """Return the spellings to look up, in order."""
    return {"keep": (word,), "lower": (word.lower(),), "keep_then_lower": (word, word.lower())}[case]


def choose_words(
    texts: Iterable[Words],
    case: Case = "keep",
    vectors: WordVectors | None = None,
    trained: bool = False,
    normalise: bool = False,
    dim: int = 100,
    seed: int = 0,
) -> tuple[WordTable, np.ndarray]:
    """Choose the words of `texts` that get a vector; return their table and the (V + 2, D) float32 vectors.

    Fixed vectors: the words that `vectors` holds, and zero for all others. Trained vectors: all words; a word that
    `vectors` lacks starts from a normal distribution with the mean and the deviation of those found (AllenNLP
    embedding.py), or with deviation 0.1 if there are none. normalise: scale each to length 1.
    """
    known: Mapping[str, int] = {} if vectors is None else vectors[0]
    chosen: dict[str, int | None] = {}
    for word in dict.fromkeys(word for text in texts for word in text):
        form = next((form for form in forms(word, case) if form in known), None)
        if form is not None:
            chosen[form] = known[form]
        elif trained:
            chosen[forms(word, case)[-1]] = None
    found = [(place, row) for place, row in enumerate(chosen.values(), start=UNKNOWN + 1) if row is not None]
    values = np.zeros((len(chosen) + 2, dim if vectors is None else vectors[1].shape[1]), np.float32)
    mean, deviation = 0.0, 0.1
    if vectors is not None and found:
        places, rows = zip(*found, strict=True)
        known_values = vectors[1][list(rows)]
        values[list(places)] = known_values
        mean, deviation = float(known_values.mean()), float(known_values.std())
    if trained:
        missing = [UNKNOWN] + [place for place, row in enumerate(chosen.values(), start=UNKNOWN + 1) if row is None]
        values[missing] = np.random.default_rng(seed).normal(mean, deviation, (len(missing), values.shape[1]))
    if normalise:
        values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return WordTable(tuple(chosen), case), values


@dataclass(frozen=True)
class CharacterTable:
    """The characters that have an embedding. A word is cut after `most` characters and padded to at least `fewest`."""

    characters: tuple[str, ...]
    most: int = 50
    fewest: int = 3

    @cached_property
    def rows(self) -> dict[str, int]:
        return {character: row for row, character in enumerate(self.characters, start=UNKNOWN + 1)}

    def ids(self, word: str) -> list[int]:
        return [self.rows.get(character, UNKNOWN) for character in word[: self.most]]


def choose_characters(texts: Iterable[Words], min_count: int = 1, most: int = 50, fewest: int = 3) -> CharacterTable:
    """Choose the characters that occur at least `min_count` times, the most frequent first."""
    counts: dict[str, int] = {}
    for text in texts:
        for word in text:
            for character in word:
                counts[character] = counts.get(character, 0) + 1
    frequent = sorted((c for c, count in counts.items() if count >= min_count), key=lambda c: (-counts[c], c))
    return CharacterTable(tuple(frequent), most, fewest)


@dataclass(frozen=True)
class Sequences:
    """B texts. words (B, T) and characters (B, T, C): rows of the tables. mask (B, T): True at words.

    lengths (B,) stay on the CPU. elmo (L + 1, B, T, D): the biLM's layers, None before they are added.
    """

    texts: tuple[Words, ...]
    words: Tensor
    characters: Tensor | None
    lengths: Tensor
    mask: Tensor
    elmo: Tensor | None = None

    def to(self, device: torch.device | str) -> "Sequences":
        characters, elmo = (None if value is None else value.to(device) for value in (self.characters, self.elmo))
        return Sequences(self.texts, self.words.to(device), characters, self.lengths, self.mask.to(device), elmo)


@dataclass(frozen=True)
class Tables:
    """All that turns examples into batches: words, characters (None: no character CNN) and the task's labels."""

    words: WordTable
    characters: CharacterTable | None = None
    labels: tuple[str, ...] = ()

    @cached_property
    def label_rows(self) -> dict[str, int]:
        return {label: row for row, label in enumerate(self.labels)}

    def sequences(self, texts: Sequence[Words]) -> Sequences:
        lengths = torch.tensor([len(text) for text in texts])
        width = max(1, int(lengths.max()))
        words = padded([self.words.ids(text) for text in texts], width)
        mask = torch.arange(width) < lengths[:, None]
        return Sequences(tuple(texts), words, self._spellings(texts, width), lengths, mask)

    def _spellings(self, texts: Sequence[Words], width: int) -> Tensor | None:
        if self.characters is None:
            return None
        ids = [[self.characters.ids(word) for word in text] for text in texts]
        longest = max((len(word) for text in ids for word in text), default=0)
        characters = torch.zeros(len(texts), width, max(longest, self.characters.fewest), dtype=torch.int64)
        for row, text in zip(characters, ids, strict=True):
            row[: len(text)] = padded(text, characters.shape[2])
        return characters


def padded(rows: Sequence[Sequence[int]], width: int, padding: int = PADDING) -> Tensor:
    """(len(rows), width) int64."""
    return torch.tensor([[*row, *[padding] * (width - len(row))] for row in rows], dtype=torch.int64).view(-1, width)


@dataclass(frozen=True)
class Batch:
    """Examples as tensors. sequences: one for each kind of text, for instance context and question."""

    sequences: tuple[Sequences, ...]

    def to(self: AnyBatch, device: torch.device | str) -> AnyBatch:
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return dataclasses.replace(self, sequences=tuple(s.to(device) for s in self.sequences), **moved)

    def with_elmo(self: AnyBatch, read: Callable[[tuple[Words, ...]], Tensor]) -> AnyBatch:
        """Add the biLM's layers. read: texts -> (L + 1, B, T, D), zeros after a text's end; one call a kind of text."""
        return dataclasses.replace(
            self, sequences=tuple(dataclasses.replace(s, elmo=read(s.texts)) for s in self.sequences)
        )
