"""Compute the biLM's layers of sentences, fast: each unique word once, sentences of similar length together.

Each sentence starts from the zero state, so its vectors do not depend on the batch. Keeping states between batches, as
bilm-tf and AllenNLP do, is an option.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.characters import UTF8
from pipeline.config.schema import require
from pipeline.model.bilm import BiLM, States
from pipeline.model.elmo.lstmp_inference import LSTMPInference
from pipeline.model.elmo.sentence_batch import (
    Spelled,
    group_by_length,
    reading_order,
    spell_sentences,
    spelled_from_ids,
)
from pipeline.model.elmo.word_cache import WordCache
from pipeline.model.lstmp import LSTMPState

Sentences = Sequence[Sequence[str]] | Tensor
_MAX_ROWS = {"cpu": 256, "cuda": 512}  # most sentences of a group
_STEP_COSTS_ROWS = {"cpu": 24, "cuda": 128}  # the fixed cost of a step of a group, in rows


@dataclass(frozen=True)
class EncodedGroup:
    """Layers of sentences that were computed together. numbers (B,): the sentences; lengths (B,): their words.

    layers: L + 1 of (2, T, B, P), each direction in its own reading order from <S> or </S> on. Values after a
    sentence's end are undefined.
    """

    numbers: np.ndarray
    lengths: np.ndarray
    layers: list[Tensor]

    def word_vectors(self, bounds: bool = False) -> Tensor:
        """Return (L + 1, N, 2 P): [forward, backward] of the words, sentence after sentence.

        bounds: <S> and </S> are included.
        """
        counts = self.lengths + 2 * bounds
        column = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        step = place + (not bounds)
        mirrored = np.repeat(self.lengths + 1, counts) - step
        device = self.layers[0].device
        forward, backward = (torch.from_numpy(s * len(counts) + column).to(device) for s in (step, mirrored))
        return torch.stack(
            [torch.cat([y[0].flatten(0, 1)[forward], y[1].flatten(0, 1)[backward]], -1) for y in self.layers]
        )


@dataclass(frozen=True)
class Packed:
    """Layers of all words end to end, (L + 1, N, 2 P). Sentence s has lengths[s] of the N words, from first[s] on."""

    layers: Tensor
    first: np.ndarray
    lengths: np.ndarray

    def sentences(self) -> list[Tensor]:
        """Return a view (L + 1, n, 2 P) for each sentence."""
        return [self.layers[:, a : a + n] for a, n in zip(self.first.tolist(), self.lengths.tolist(), strict=True)]

    def places(self, width: int) -> tuple[Tensor, Tensor]:
        """Return (B, width) int64: each word's place among the N, N at padding; and (B, width) bool: True at words."""
        column = np.arange(width)
        mask = column < self.lengths[:, None]
        places = np.where(mask, self.first[:, None] + column, self.layers.shape[1])
        device = self.layers.device
        return torch.from_numpy(places).to(device), torch.from_numpy(mask).to(device)

    def without_bounds(self) -> "Packed":
        """Return the same sentences without <S> and </S>, which `layers` still hold."""
        return Packed(self.layers, self.first + 1, self.lengths - 2)


def pad(packed_nd: Tensor, places: Tensor) -> Tensor:
    """Turn (..., N, D) into (..., B, width, D) by `Packed.places`, with zeros at padding."""
    zero = packed_nd.new_zeros(*packed_nd.shape[:-2], 1, packed_nd.shape[-1])
    return torch.cat([packed_nd, zero], -2).index_select(-2, places.flatten()).unflatten(-2, places.shape)


class SentenceEncoder(nn.Module):
    """Encode sentences by a biLM, with an optional cache of word vectors and optional states between batches."""

    def __init__(self, bilm: BiLM, stateful: bool = False) -> None:
        """stateful: row k of a batch starts from the last state of row k of the batch before (bilm-tf, AllenNLP)."""
        super().__init__()
        self.bilm, self.stateful = bilm, stateful
        self.word_cache = WordCache()
        self._inference = LSTMPInference(bilm)
        self._states: States | None = None

    def encode(self, sentences: Sentences, bounds: bool = False) -> Packed:
        """Return all layers of sentences: lists of words, or AllenNLP's ids (B, n, C), see `spelled_from_ids`.

        bounds: <S> and </S> of each sentence are included.
        """
        spelled = self.spell(sentences)
        lengths = spelled.lengths + 2 * bounds
        first, parts, total = np.zeros_like(lengths), [], 0
        for group in self.encode_groups(spelled, whole=bounds):
            parts.append(group.word_vectors(bounds))
            counts = group.lengths + 2 * bounds
            first[group.numbers] = total + np.cumsum(counts) - counts
            total += int(counts.sum())
        if not parts:
            config = self.bilm.config
            parts = [self.bilm.encoder.char_embed.new_zeros(config.num_layers + 1, 0, 2 * config.projection_dim)]
        return Packed(parts[0] if len(parts) == 1 else torch.cat(parts, 1), first, lengths)

    def spell(self, sentences: Sentences) -> Spelled:
        alphabet, max_characters = self.bilm.encoder.alphabet, self.bilm.config.max_characters
        if not isinstance(sentences, Tensor):
            return spell_sentences(sentences, max_characters, alphabet)
        require(alphabet is UTF8, "this model has a dictionary of characters: give it words, not character ids")
        return spelled_from_ids(sentences, max_characters)

    def encode_groups(self, spelled: Spelled, whole: bool = False) -> Iterator[EncodedGroup]:
        """Yield the layers of sentences in groups of similar length. Empty sentences are left out.

        whole: each direction reads both bounds, not only its first; empty sentences are then included, as they are if
        stateful. Layers have gradients if any weight of the biLM is trained.
        """
        whole = whole or self.stateful
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.bilm.parameters())
        with torch.set_grad_enabled(trained):
            vectors = self.word_cache.vectors_of(self.bilm.encoder, spelled)
        for numbers in self._groups(spelled.lengths, whole, trained):
            unique, index = np.unique(reading_order([spelled.ids[n] for n in numbers], whole), return_inverse=True)
            places, words = (torch.from_numpy(ids).to(vectors.device) for ids in (index, unique))
            with torch.set_grad_enabled(trained):  # not around the yield, where it would apply to the caller's code
                layers, after = self._run_layers(vectors[words], places, spelled.lengths[numbers] + 1 + whole, numbers)
            if self.stateful:
                self._keep_states(numbers, after)
            yield EncodedGroup(numbers, spelled.lengths[numbers], layers)

    def _run_layers(
        self, words: Tensor, index: Tensor, steps: np.ndarray, numbers: np.ndarray
    ) -> tuple[list[Tensor], States]:
        states = self._states_of(numbers)
        if torch.is_grad_enabled():
            return self.bilm.run_layers(F.embedding(index, words), states)
        return self._inference.run_layers(words, index, steps.tolist(), states)

    def _groups(self, lengths: np.ndarray, whole: bool, trained: bool) -> list[np.ndarray]:
        if self.stateful:  # no padding: the state that is kept is that of the sentence's own end
            return [np.flatnonzero(lengths == n) for n in np.unique(lengths)]
        kind = "cpu" if self.bilm.device.type == "cpu" else "cuda"
        numbers = np.arange(len(lengths)) if whole else np.flatnonzero(lengths)
        steps = lengths[numbers] + 1 + whole
        groups = group_by_length(steps, _MAX_ROWS[kind], _STEP_COSTS_ROWS[kind], padding_costs=trained)
        return [numbers[group] for group in groups]

    def cache_vocabulary(self, words: Sequence[str]) -> None:
        """Compute and cache the vectors of these words. Raises ConfigError if the biLM is trained."""
        self.word_cache.fill(self.bilm.encoder, words, self.bilm.config.max_characters)

    def reset_states(self) -> None:
        """Start all rows from the zero state again."""
        self._states = None

    def _states_of(self, numbers: np.ndarray) -> States:
        if not self.stateful:
            return self.bilm.initial_states(len(numbers))
        kept = self._states or self.bilm.initial_states(0)
        new = self.bilm.initial_states(max(0, int(numbers.max()) + 1 - kept[0].h.shape[1]))
        self._states = [
            LSTMPState(torch.cat([a.h, b.h], 1), torch.cat([a.c, b.c], 1)) for a, b in zip(kept, new, strict=True)
        ]
        rows = torch.from_numpy(numbers).to(self.bilm.device)
        return [LSTMPState(state.h[:, rows], state.c[:, rows]) for state in self._states]

    def _keep_states(self, numbers: np.ndarray, after: States) -> None:
        assert self._states is not None
        rows = torch.from_numpy(numbers).to(self.bilm.device)
        for kept, new in zip(self._states, after, strict=True):
            kept.h[:, rows], kept.c[:, rows] = new.h.detach(), new.c.detach()
