"""Vectors of words from their characters, or from a table where a vocabulary is kept: equal either way."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.characters import PAD
from pipeline.config.schema import require
from pipeline.model.elmo.lstmp_inference import version_of
from pipeline.model.elmo.sentence_batch import Spelled, spell_sentences
from pipeline.model.token_encoder import BUCKET_LENGTHS, TokenEncoder

_WORDS_AT_ONCE = 512  # unique words encoded together where no gradient is wanted
_WORD_MULTIPLE = 16  # few shapes, as ROW_MULTIPLE in lstmp_inference.py: oneDNN makes a program for each


class WordTable(nn.Module):
    """Starts empty: then every word is made of its characters."""

    vectors: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.empty(0), persistent=False)
        self._rows: dict[str, int] = {}
        self._made_of: list[tuple[object, ...]] = []

    def fill(self, encoder: TokenEncoder, words: Sequence[str], max_characters: int) -> None:
        """Raises ConfigError where the encoder is trained."""
        _refuse_trained(encoder)
        spelled = spell_sentences([list(words)], max_characters)
        assert spelled.words is not None
        with torch.no_grad():
            self.vectors = encode_words(encoder, spelled.characters)
        self._rows = {word: row for row, word in enumerate(spelled.words)}
        self._made_of = version_of(encoder)

    def look_up(self, encoder: TokenEncoder, spelled: Spelled) -> Tensor:
        """(U, P). A table that the encoder's weights have left behind is made anew."""
        if spelled.words is None or not self._rows:
            return encode_words(encoder, spelled.characters)
        _refuse_trained(encoder)
        if version_of(encoder) != self._made_of:
            self.fill(encoder, list(self._rows), spelled.characters.shape[1])
        rows = np.fromiter((self._rows.get(word, -1) for word in spelled.words), np.int64, len(spelled.words))
        missing = np.flatnonzero(rows < 0)
        vectors = self.vectors[torch.from_numpy(rows).to(self.vectors.device)]
        if len(missing):
            vectors[torch.from_numpy(missing).to(vectors.device)] = encode_words(encoder, spelled.characters[missing])
        return vectors


def encode_words(encoder: TokenEncoder, characters: np.ndarray) -> Tensor:
    """(U, P) in the encoder's dtype. Without gradient in blocks of words of like length: less padding, less memory."""
    dtype, device = encoder.char_embed.dtype, encoder.char_embed.device
    if torch.is_grad_enabled() or not len(characters):
        return encoder(torch.from_numpy(characters).to(device)).to(dtype)
    encoded = []
    order, blocks = _blocks((characters != PAD).sum(1))
    for block in blocks:
        filled = np.concatenate([block, np.repeat(block[:1], -len(block) % _WORD_MULTIPLE)])
        vectors = encoder(torch.from_numpy(characters[filled]).to(device))
        encoded.append(vectors[: len(block)].to(dtype))
    return torch.cat(encoded)[torch.from_numpy(np.argsort(order)).to(device)]


def _blocks(lengths: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """(order by length, the same in blocks): each of words that the encoder convolves together."""
    order = np.argsort(lengths, kind="stable")
    buckets = np.split(order, np.searchsorted(lengths[order], BUCKET_LENGTHS, side="right"))
    starts = [(bucket, start) for bucket in buckets for start in range(0, len(bucket), _WORDS_AT_ONCE)]
    return order, [bucket[start : start + _WORDS_AT_ONCE] for bucket, start in starts]


def _refuse_trained(encoder: TokenEncoder) -> None:
    require(
        not any(p.requires_grad for p in encoder.parameters()),
        "words cannot be cached while the biLM is trained, as their vectors change; use trainable=False, or no cache",
    )
