"""Rows of the softmax that words share by spelling: a row for each beginning, ending, lower-case form and shape.

A rare word's own row is seldom trained. The row of its ending is that of many words, and learns in every step. A word's
row in the trained table is the sum of its own row and these, so what is evaluated and exported is a plain table, and
the network is the paper's. What it brings: lab/recipe.md.
"""

from binascii import crc32
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_prep.dataset.lexicon import NUM_SPECIALS
from pipeline.model.backend.device import uses_kernels

_LONGEST = 4  # characters of a beginning or ending
_NUM_FEATURES = 2 + 2 * _LONGEST  # of a word, at most
_MOST_ROWS = 1 << 17
_BLOCK_WORDS = 1 << 16


class AffixRows(nn.Module):
    """weight (R, P): the shared rows, which start as zeros. features (V, 10) int32: those of each word, 0: none.

    Features are hashed, so some share a row. Row 0 stays zero.
    """

    features: Tensor

    def __init__(self, words: Sequence[str], proj_dim: int) -> None:
        """words: those of the softmax, the specials first, which have no features."""
        super().__init__()
        number = num_shared_rows(len(words))
        features = np.zeros((len(words), _NUM_FEATURES), np.int32)
        for word_id in range(NUM_SPECIALS, len(words)):
            found = [1 + crc32(feature.encode()) % (number - 1) for feature in _features(words[word_id])]
            features[word_id, : len(found)] = found
        self.weight = nn.Parameter(torch.zeros(number, proj_dim))
        self.register_buffer("features", torch.from_numpy(features), persistent=False)

    def rows(self, word_ids: Tensor) -> Tensor:
        """Return (n, P): for each word (n,) the sum of its shared rows, without a gradient."""
        features = self.features[word_ids]
        return F.embedding_bag(features, self.weight.detach(), mode="sum").mul_(_scale(features))

    def gradient(self, word_ids: Tensor, of_rows: Tensor) -> Tensor:
        """Return the gradient of `weight`, from the gradient (n, P) of the rows of distinct words (n,).

        It is sparse on a CPU. On a GPU it is dense, because the CPU would wait for the number of rows. Sums are taken
        in sorted order: a GPU's atomic additions would give each rank other sums.
        """
        features = self.features[word_ids]
        places, order = features.flatten().sort(stable=True)
        of_rows, words = of_rows * _scale(features), order // _NUM_FEATURES
        if uses_kernels(self.weight):
            every = torch.arange(len(self.weight), dtype=places.dtype, device=places.device)
            sums = F.embedding_bag(words, of_rows, torch.searchsorted(places, every), mode="sum")
            sums[0].zero_()
            return sums
        is_none = int(torch.searchsorted(places, 1))
        places, lengths = torch.unique_consecutive(places[is_none:], return_counts=True)
        starts = F.pad(lengths.cumsum(0), (1, 0))[:-1]
        sums = F.embedding_bag(words[is_none:], of_rows, starts, mode="sum")
        return torch.sparse_coo_tensor(
            places.long().unsqueeze(0), sums, self.weight.shape, is_coalesced=True, check_invariants=False
        )


def num_shared_rows(vocab_size: int) -> int:
    return max(2, min(vocab_size, _MOST_ROWS))


@torch.no_grad()
def add_shared_rows(table: Tensor, affixes: AffixRows) -> Tensor:
    """Return a copy of the table (V, P) with the shared rows added."""
    whole = table.clone()
    for start in range(0, len(whole), _BLOCK_WORDS):
        block = whole[start : start + _BLOCK_WORDS]
        block += affixes.rows(torch.arange(start, start + len(block), device=table.device))
    return whole


def _scale(features: Tensor) -> Tensor:
    """Return (n, 1): by what a word's shared rows are multiplied, so that in a step they move it as far as its own."""
    return (features > 0).sum(1, keepdim=True).clamp(min=1).rsqrt()


def _features(word: str) -> Iterator[str]:
    """Yield the features of a word. Tabs, which no word has, tell apart what they are."""
    yield f"\t\t{_shape(word)}"
    yield f"\t{word.lower()}\t"
    for length in range(1, min(_LONGEST, len(word)) + 1):
        yield f"\t{word[:length]}"
        yield f"{word[-length:]}\t"


def _shape(word: str) -> str:
    if word[:1].isupper():
        return "upper"
    if word.isalpha():
        return "letters"
    return "digits" if any(character.isdigit() for character in word) else "other"
