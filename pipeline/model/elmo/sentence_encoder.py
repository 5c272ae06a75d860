"""From sentences to the biLM's layers, fast: unique words once, like lengths together, order kept.

Each sentence starts cold, so its vectors are the same in any company; the peers' carried state is an option.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.model.bilm import BiLM, States
from pipeline.model.elmo.lstmp_inference import Reader
from pipeline.model.elmo.sentence_batch import (
    Spelled,
    group_by_length,
    reading_order,
    spell_sentences,
    spelled_from_ids,
)
from pipeline.model.elmo.word_cache import WordTable
from pipeline.model.lstmp import LSTMPState

Sentences = Sequence[Sequence[str]] | Tensor
_MAX_ROWS = {"cpu": 256, "cuda": 512}  # sentences read together
_STEP_COSTS_ROWS = {"cpu": 24, "cuda": 128}  # a step of one more group costs about as much as so many more rows


class Reading(NamedTuple):
    """Sentences that were read together. numbers (B,): which; lengths (B,): their words.

    layers: L + 1 of (2, T, B, P), each direction in its own reading order from <S> or </S> on; what stands behind
    a sentence's end is of no meaning.
    """

    numbers: np.ndarray
    lengths: np.ndarray
    layers: list[Tensor]

    def of_words(self, bounds: bool = False) -> Tensor:
        """(L + 1, N, 2 P): [forward, backward] of the words, sentence after sentence; bounds: <S> and </S> too."""
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


class Packed(NamedTuple):
    """Layers of all words end to end. layers (L + 1, N, 2 P); sentence s has lengths[s] of the N, from first[s] on."""

    layers: Tensor
    first: np.ndarray
    lengths: np.ndarray

    def sentences(self) -> list[Tensor]:
        """Views (L + 1, n, 2 P) of each sentence."""
        return [self.layers[:, a : a + n] for a, n in zip(self.first.tolist(), self.lengths.tolist(), strict=True)]

    def places(self, width: int) -> tuple[Tensor, Tensor]:
        """(B, width) int64: each word's place among the N, N where there is none; and (B, width) bool: is one."""
        column = np.arange(width)
        mask = column < self.lengths[:, None]
        places = np.where(mask, self.first[:, None] + column, self.layers.shape[1])
        device = self.layers.device
        return torch.from_numpy(places).to(device), torch.from_numpy(mask).to(device)

    def without_bounds(self) -> "Packed":
        """The same words, of sentences that were packed with <S> and </S>; `layers` still hold these."""
        return Packed(self.layers, self.first + 1, self.lengths - 2)


def pad(packed_nd: Tensor, places: Tensor) -> Tensor:
    """(..., N, D) -> (..., B, width, D) by `Packed.places`, zeros where there is no word."""
    zero = packed_nd.new_zeros(*packed_nd.shape[:-2], 1, packed_nd.shape[-1])
    return torch.cat([packed_nd, zero], -2).index_select(-2, places.flatten()).unflatten(-2, places.shape)


class SentenceEncoder(nn.Module):
    """A biLM (its softmax is not used) with, if wished, a table of word vectors and states that are carried."""

    def __init__(self, bilm: BiLM, stateful: bool = False) -> None:
        """stateful: row k of a batch goes on where row k of the batch before ended, as in bilm-tf and AllenNLP."""
        super().__init__()
        self.bilm, self.stateful = bilm, stateful
        self.table = WordTable()
        self._reader = Reader(bilm)
        self._states: States | None = None

    def encode(self, sentences: Sentences, bounds: bool = False) -> Packed:
        """All layers of sentences: lists of words, or ids (B, n, C) as AllenNLP's (see `spelled_from_ids`).

        bounds: <S> and </S> of each sentence too.
        """
        spelled = self.spell(sentences)
        lengths = spelled.lengths + 2 * bounds
        first, parts, total = np.zeros_like(lengths), [], 0
        for reading in self.read(spelled, whole=bounds):
            parts.append(reading.of_words(bounds))
            counts = reading.lengths + 2 * bounds
            first[reading.numbers] = total + np.cumsum(counts) - counts
            total += int(counts.sum())
        if not parts:
            config = self.bilm.config
            parts = [self.bilm.encoder.char_embed.new_zeros(config.num_layers + 1, 0, 2 * config.projection_dim)]
        return Packed(parts[0] if len(parts) == 1 else torch.cat(parts, 1), first, lengths)

    def spell(self, sentences: Sentences) -> Spelled:
        spell = spelled_from_ids if isinstance(sentences, Tensor) else spell_sentences
        return spell(sentences, self.bilm.config.max_characters)  # type: ignore[arg-type]

    def read(self, spelled: Spelled, whole: bool = False) -> Iterator[Reading]:
        """The sentences in groups of like length; none without words unless stateful or whole.

        whole: each direction reads both bounds, not only its first. Gradients where any weight is trained.
        """
        whole = whole or self.stateful
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in self.bilm.parameters())
        with torch.set_grad_enabled(trained):
            vectors = self.table.look_up(self.bilm.encoder, spelled)
        for numbers in self._groups(spelled.lengths, whole, trained):
            unique, index = np.unique(reading_order([spelled.ids[n] for n in numbers], whole), return_inverse=True)
            places, words = (torch.from_numpy(ids).to(vectors.device) for ids in (index, unique))
            with torch.set_grad_enabled(trained):  # not around the yield: the caller's code has a switch of its own
                layers, after = self._read(vectors[words], places, spelled.lengths[numbers] + 1 + whole, numbers)
            if self.stateful:
                self._keep_states(numbers, after)
            yield Reading(numbers, spelled.lengths[numbers], layers)

    def _read(
        self, words: Tensor, index: Tensor, steps: np.ndarray, numbers: np.ndarray
    ) -> tuple[list[Tensor], States]:
        states = self._states_of(numbers)
        if torch.is_grad_enabled():
            return self.bilm.read(F.embedding(index, words), states)
        return self._reader.read(words, index, steps.tolist(), states)

    def _groups(self, lengths: np.ndarray, whole: bool, trained: bool) -> list[np.ndarray]:
        if self.stateful:  # no padding: the state that is carried is the one at the sentence's own end
            return [np.flatnonzero(lengths == n) for n in np.unique(lengths)]
        kind = "cpu" if self.bilm.device.type == "cpu" else "cuda"
        numbers = np.arange(len(lengths)) if whole else np.flatnonzero(lengths)
        steps = lengths[numbers] + 1 + whole
        groups = group_by_length(steps, _MAX_ROWS[kind], _STEP_COSTS_ROWS[kind], padding_costs=trained)
        return [numbers[group] for group in groups]

    def cache_vocabulary(self, words: Sequence[str]) -> None:
        """The vectors of these words stand in a table; all others are still made of their characters.

        Raises ConfigError where the biLM is trained.
        """
        self.table.fill(self.bilm.encoder, words, self.bilm.config.max_characters)

    def reset_states(self) -> None:
        """All rows start cold again."""
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
