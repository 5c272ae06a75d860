"""Sentences as arrays: spellings of unique words, groups of similar length, and the input of each direction."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pipeline.characters import PAD, UTF8, Alphabet, character_rows
from pipeline.config.schema import ConfigError, require

BOS, EOS = 0, 1  # places of <S> and </S> among the unique words
_MAX_PLACES = 1 << 14  # most steps x rows of a group, to bound its memory


class Spelled(NamedTuple):
    """characters (U, C): rows of unique words, the bounds first. ids: each sentence as places among them.

    words (U): the text of the unique words, None if only character ids are known.
    """

    characters: np.ndarray
    ids: list[np.ndarray]
    words: list[str] | None

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(ids) for ids in self.ids], np.int64)


def spell_sentences(sentences: Sequence[Sequence[str]], max_characters: int, alphabet: Alphabet = UTF8) -> Spelled:
    """Spell sentences given as lists of words. As in bilm-tf (data.py:104-181), the words <S> and </S> are the bounds.

    alphabet: of the model; with another one than UTF-8 the bounds have other names.
    """
    begin, end = alphabet.bounds
    places = {begin: BOS, end: EOS}
    for number, sentence in enumerate(sentences):
        require(not isinstance(sentence, str), f"sentence {number} is one string, not a list of words; split it")
    try:
        ids = [np.array([places.setdefault(w, len(places)) for w in s], np.int64) for s in sentences]
        characters = alphabet.rows(list(places), max_characters)
    except (TypeError, AttributeError):
        raise ConfigError("sentences must be lists of words, each word a string") from None
    return Spelled(characters, ids, list(places))


def spelled_from_ids(character_ids: Tensor, max_characters: int) -> Spelled:
    """Convert character ids (B, n, C) of AllenNLP's `batch_to_ids`: no bounds, 1 added, 0 after a sentence's end."""
    array = character_ids.detach().cpu().numpy()
    require(
        array.ndim == 3 and array.shape[2] == max_characters and array.dtype.kind in "iu",
        f"character ids of shape {array.shape} and type {array.dtype} must be whole numbers (sentences, words, "
        f"{max_characters})",
    )
    is_word = (array > 0).any(2)
    lengths = is_word.sum(1)
    require(
        bool((is_word == (np.arange(array.shape[1]) < lengths[:, None])).all()),
        "character ids must have their words first and rows of zeros only behind them",
    )
    require(
        bool((array >= 0).all() and (array <= PAD + 1).all() and (array[is_word] > 0).all()),
        f"character ids of a word must be from 1 to {PAD + 1}; make them with character_ids()",
    )
    rows = (array[is_word] - 1).astype(np.int16)
    bounds = character_rows(np.zeros(1, np.uint8), np.zeros(3, np.int64), np.arange(2), max_characters)
    unique, inverse = np.unique(np.concatenate([bounds, rows]).view(f"V{2 * max_characters}"), return_inverse=True)
    places = inverse.ravel()
    order = np.concatenate([places[:2], np.setdiff1d(np.arange(len(unique)), places[:2])])  # the bounds first
    rank = np.argsort(order)
    ids = np.split(rank[places[2:]], np.cumsum(lengths)[:-1]) if len(lengths) else []
    return Spelled(unique[order].view(np.int16).reshape(-1, max_characters), ids, None)


def character_ids(sentences: Sequence[Sequence[str]], max_characters: int) -> np.ndarray:
    """Return character ids (B, n, C) int64 as AllenNLP's `batch_to_ids` does."""
    spelled = spell_sentences(sentences, max_characters)
    ids = np.zeros((len(sentences), int(spelled.lengths.max(initial=0)), max_characters), np.int64)
    for row, places in zip(ids, spelled.ids, strict=True):
        row[: len(places)] = spelled.characters[places] + 1
    return ids


def group_by_length(
    steps: np.ndarray, max_rows: int, step_costs_rows: int, padding_costs: bool = True
) -> list[np.ndarray]:
    """Group sentences by their `steps` (S,) at the least total cost; return their numbers, longest first in a group.

    The cost of a group is the steps of its longest sentence times (rows + step_costs_rows). With padding_costs=False a
    row costs nothing after its end, and the cost is the steps of the longest times step_costs_rows.
    """
    order = np.argsort(steps, kind="stable")
    cost, begin = np.zeros(len(order) + 1), np.zeros(len(order) + 1, np.int64)
    for end in range(1, len(order) + 1):
        longest = int(steps[order[end - 1]])
        lowest = max(0, end - max(1, min(max_rows, _MAX_PLACES // longest)))
        rows = end - np.arange(lowest, end)
        costs = cost[lowest:end] + longest * (rows * padding_costs + step_costs_rows)
        best = int(costs.argmin())
        cost[end], begin[end] = costs[best], lowest + best
    groups, end = [], len(order)
    while end:
        groups.append(order[begin[end] : end][::-1])
        end = int(begin[end])
    return groups[::-1]


def reading_order(ids: list[np.ndarray], whole: bool) -> np.ndarray:
    """Return (2, T, B): the input of each direction, from its first bound on; BOS after a sentence's end.

    whole: up to the other bound, included.
    """
    index = np.zeros((2, max(map(len, ids)) + 1 + whole, len(ids)), np.int64)
    for column, words in enumerate(ids):
        index[0, 1 : len(words) + 1, column] = words
        index[1, 1 : len(words) + 1, column] = words[::-1]
        if whole:
            index[0, len(words) + 1, column] = EOS
    index[1, 0] = EOS
    return index
