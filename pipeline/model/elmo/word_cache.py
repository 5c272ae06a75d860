"""Vectors of words: computed from their characters, or taken from a cache of a vocabulary; both are equal."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.characters import PAD
from pipeline.config.schema import require
from pipeline.model.elmo.sentence_batch import Spelled, spell_sentences
from pipeline.model.token_encoder import BUCKET_LENGTHS, TokenEncoder

_WORDS_AT_ONCE = 512  # most unique words that are encoded at once without gradient
ROW_MULTIPLE = 4
"""Without gradient, matrix products get a multiple of this number of rows. BLAS computes leftover rows (one in oneDNN,
one to three in MKL) with a kernel that rounds differently, so vectors would depend on the size of the batch."""


def version_of(module: nn.Module) -> list[tuple[object, ...]]:
    """Return a value that changes when a weight is written to or replaced.

    Writes to tensors that were made in inference mode are not noticed: torch does not count them.
    """
    # torch has no public counter of writes.
    return [(id(p), p.data_ptr(), 0 if p.is_inference() else p._version) for p in module.parameters()]


class WordCache(nn.Module):
    """Vectors of the words of a vocabulary. Empty at first: then every word is computed from its characters."""

    vectors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.empty(0), persistent=False)
        self._rows: dict[str, int] = {}
        self._encoder_version: list[tuple[object, ...]] = []
        self._max_characters = 0

    def fill(self, encoder: TokenEncoder, words: Sequence[str], max_characters: int) -> None:
        """Compute and keep the vectors of `words`. Raises ConfigError if the encoder is trained."""
        _refuse_trained(encoder)
        spelled = spell_sentences([list(words)], max_characters, encoder.alphabet)
        assert spelled.words is not None
        with torch.no_grad():
            self.vectors = encode_words(encoder, spelled.characters)
        self._rows = {word: row for row, word in enumerate(spelled.words)}
        self._encoder_version, self._max_characters = version_of(encoder), max_characters

    def vectors_of(self, encoder: TokenEncoder, spelled: Spelled) -> Tensor:
        """Return (U, P) vectors of the unique words. If the encoder's weights have changed, fill the cache again."""
        if spelled.words is None or not self._rows:
            return encode_words(encoder, spelled.characters)
        _refuse_trained(encoder)
        if version_of(encoder) != self._encoder_version:
            self.fill(encoder, list(self._rows), self._max_characters)
        rows = np.fromiter((self._rows.get(word, -1) for word in spelled.words), np.int64, len(spelled.words))
        missing = np.flatnonzero(rows < 0)
        vectors = self.vectors[torch.from_numpy(rows).to(self.vectors.device)]
        if len(missing):
            vectors[torch.from_numpy(missing).to(vectors.device)] = encode_words(encoder, spelled.characters[missing])
        return vectors


def encode_words(encoder: TokenEncoder, characters: np.ndarray) -> Tensor:
    """Return (U, P) vectors in the encoder's dtype.

    Without gradient, words are encoded in blocks of similar length, which takes less padding and memory.
    """
    dtype, device = encoder.char_embed.dtype, encoder.char_embed.device
    if torch.is_grad_enabled() or not len(characters):
        return encoder(torch.from_numpy(characters).to(device)).to(dtype)
    encoded = []
    order, blocks = _blocks((characters != PAD).sum(1))
    for block in blocks:
        filled = np.concatenate([block, np.repeat(block[:1], -len(block) % ROW_MULTIPLE)])
        vectors = encoder(torch.from_numpy(characters[filled]).to(device))
        encoded.append(vectors[: len(block)].to(dtype))
    return torch.cat(encoded)[torch.from_numpy(np.argsort(order)).to(device)]


def _blocks(lengths: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the order by length, and the same order in blocks of words of one bucket of the encoder."""
    order = np.argsort(lengths, kind="stable")
    buckets = np.split(order, np.searchsorted(lengths[order], BUCKET_LENGTHS, side="right"))
    starts = [(bucket, start) for bucket in buckets for start in range(0, len(bucket), _WORDS_AT_ONCE)]
    return order, [bucket[start : start + _WORDS_AT_ONCE] for bucket, start in starts]


def _refuse_trained(encoder: TokenEncoder) -> None:
    require(
        not any(p.requires_grad for p in encoder.parameters()),
        "words cannot be cached while the biLM is trained, as their vectors change; use trainable=False, or no cache",
    )
