"""Log-probabilities of many sentences that begin alike, by full softmax: each different beginning is computed once.

Sentences are sorted, so that those of a chunk share beginnings: the two of a minimal pair, and other pairs of the same
paradigm. A chunk is then a tree of words. The biLM reads a level of the tree at a time, all of its nodes together, and
the softmax is normalised once for each node. The numbers are those of `elmo score`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_prep.dataset.lexicon import BOS_ID, EOS_ID, UNK_ID
from pipeline.model.bilm import States
from pipeline.model.elmo.lstmp_inference import LSTMPInference
from pipeline.model.elmo.sentence_batch import BOS, EOS, spell_sentences
from pipeline.model.elmo.word_cache import encode_words
from pipeline.model.language_model import LanguageModel
from pipeline.model.lstmp import LSTMPState

Words = tuple[str, ...]
_CHUNK_SENTENCES = 4096
_FORWARD, _BACKWARD = 0, 1


@dataclass(frozen=True)
class Level:
    """The nodes of a tree after as many words. Node k is reached from node parents[k] before by words[k]."""

    parents: np.ndarray
    words: np.ndarray


def tree_of(sentences: np.ndarray, lengths: np.ndarray, root: int) -> tuple[list[Level], np.ndarray]:
    """Return the tree of sentences (S, T) of word ids, and nodes (S, T + 1): each beginning's place in its level.

    Level 0 is the start, where `root` has been read. A sentence takes part in levels 0 to its length.
    """
    nodes = np.zeros((len(sentences), sentences.shape[1] + 1), np.int64)
    levels = [Level(np.zeros(1, np.int64), np.array([root]))]
    width = int(sentences.max(initial=0)) + 1
    for depth in range(int(lengths.max(initial=0))):
        inside = np.flatnonzero(lengths > depth)
        keys = nodes[inside, depth] * width + sentences[inside, depth]
        unique, place = np.unique(keys, return_inverse=True)
        nodes[inside, depth + 1] = place.ravel()
        levels.append(Level(unique // width, unique % width))
    return levels, nodes


class PrefixScorer:
    """Score sentences with a language model. words: its vocabulary."""

    def __init__(self, model: LanguageModel, words: Sequence[str]) -> None:
        self._model, self._inference = model, LSTMPInference(model)
        self._targets = {word: number for number, word in enumerate(words)}

    def unknown(self, words: Words) -> int:
        """Return how many words are not in the vocabulary, and are scored as <UNK>."""
        return sum(self._target(word) == UNK_ID for word in words)

    @torch.inference_mode()
    def score(self, sentences: Sequence[Words], between_chunks: Callable[[int], None] = lambda _: None) -> np.ndarray:
        """Return (2, S): natural logarithms of the probabilities, forward and backward, each from the cold state.

        </S> (forward) and <S> (backward) are predicted too. between_chunks: called with the number of sentences done.
        """
        spelled = spell_sentences(sentences, self._model.config.max_characters)
        assert spelled.words is not None
        vectors = encode_words(self._model.encoder, spelled.characters)
        targets = torch.tensor([BOS_ID, EOS_ID, *map(self._target, spelled.words[2:])], device=vectors.device)
        lengths = spelled.lengths
        padded = np.zeros((2, len(lengths), int(lengths.max(initial=0))), np.int64)
        for row, ids in enumerate(spelled.ids):
            padded[:, row, : len(ids)] = ids, ids[::-1]
        orders = [np.lexsort(words.T[::-1]) for words in padded]
        found = np.zeros((2, len(lengths)))
        for start in range(0, len(lengths), _CHUNK_SENTENCES):
            rows = [order[start : start + _CHUNK_SENTENCES] for order in orders]
            longest = [int(lengths[row].max()) for row in rows]
            chunk = [(padded[d][rows[d], : longest[d]], lengths[rows[d]]) for d in (_FORWARD, _BACKWARD)]
            for d, scores in enumerate(self._score_chunk(chunk, vectors, targets)):
                found[d, rows[d]] = scores
            between_chunks(start + len(rows[0]))
        return found

    def _target(self, word: str) -> int:
        return self._targets.get(word, UNK_ID)

    def _score_chunk(
        self, chunk: list[tuple[np.ndarray, np.ndarray]], vectors: Tensor, targets: Tensor
    ) -> list[np.ndarray]:
        """Return the scores of the chunk's sentences of each direction, which are not the same sentences."""
        trees = [tree_of(*part, root) for part, root in zip(chunk, (BOS, EOS), strict=True)]
        tops: list[list[Tensor]] = [[], []]
        states = self._model.initial_states(1)
        for depth in range(max(len(levels) for levels, _ in trees)):
            top, states = self._read_level([levels[depth : depth + 1] for levels, _ in trees], vectors, states)
            for d, (levels, _) in enumerate(trees):
                tops[d] += [top[d][: len(level.words)] for level in levels[depth : depth + 1]]
        return [
            self._log_probabilities(tops[d], nodes, _following(*chunk[d], (EOS, BOS)[d]), chunk[d][1], targets)
            for d, (_, nodes) in enumerate(trees)
        ]

    def _read_level(self, levels: list[list[Level]], vectors: Tensor, states: States) -> tuple[list[Tensor], States]:
        """Return the top layer (n, P) at the nodes of each direction's level, and the states after them.

        The directions have different numbers of nodes: the last one is repeated. A direction may have no level left.
        """
        rows = max(len(level.words) for of in levels for level in of)
        parents, words = np.zeros((2, rows), np.int64), np.zeros((2, rows), np.int64)
        for d, of in enumerate(levels):
            for level in of:
                at = np.minimum(np.arange(rows), len(level.words) - 1)
                parents[d], words[d] = level.parents[at], level.words[at]
        unique, index = np.unique(words, return_inverse=True)
        device = vectors.device
        reached = torch.from_numpy(parents).to(device)
        before = [LSTMPState(_of_parents(state.h, reached), _of_parents(state.c, reached)) for state in states]
        index_dtb = torch.from_numpy(index.reshape(2, 1, rows)).to(device)
        layers, after = self._inference.run_layers(
            vectors[torch.from_numpy(unique).to(device)], index_dtb, [1] * rows, before
        )
        return [layers[-1][d, 0] for d in (_FORWARD, _BACKWARD)], after

    def _log_probabilities(
        self, tops: list[Tensor], nodes: np.ndarray, following: np.ndarray, lengths: np.ndarray, targets: Tensor
    ) -> np.ndarray:
        """Return (S,): log p of each sentence. tops: for each level the top layer (n, P) at its nodes.

        The softmax is normalised for all levels together, because a level may have few nodes.
        """
        softmax, top = self._model.softmax, torch.cat(tops)
        before = np.cumsum([0, *map(len, tops[:-1])])
        is_read = np.arange(nodes.shape[1]) <= lengths[:, None]
        places = torch.from_numpy((nodes + before)[is_read]).to(top.device)
        wanted = targets[torch.from_numpy(following[is_read]).to(targets.device)]
        log_probabilities = np.zeros(nodes.shape)
        found = softmax.logits(top[places], wanted) - softmax.log_normalisers(top)[places]
        log_probabilities[is_read] = found.double().cpu().numpy()
        return np.asarray(log_probabilities.sum(1))


def _following(sentences: np.ndarray, lengths: np.ndarray, end: int) -> np.ndarray:
    """Return (S, T + 1): the word after each beginning of sentences (S, T), `end` after the whole sentence."""
    following = np.pad(sentences, ((0, 0), (0, 1)))
    following[np.arange(len(lengths)), lengths] = end
    return following


def _of_parents(state: Tensor, parents: Tensor) -> Tensor:
    """Return (2, rows, D): the rows of state (2, n, D) that the nodes of each direction follow."""
    return torch.stack([state[d, parents[d]] for d in (_FORWARD, _BACKWARD)])
