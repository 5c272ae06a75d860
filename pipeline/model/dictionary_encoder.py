"""The token encoder of ELMoForManyLangs' models: characters of a dictionary, and a vector of each word that it knows.

Source: HIT-SCIR/ELMoForManyLangs, elmoformanylangs/modules/token_embedder.py (ConvTokenEmbedder).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.characters import Dictionary
from pipeline.config.schema import ModelConfig
from pipeline.model.backend.matmul import linear
from pipeline.model.dictionary import dictionary_of
from pipeline.model.token_encoder import TokenEncoder, fill


class DictionaryEncoder(TokenEncoder):
    """Encode rows of `Dictionary.rows`: project [word vector, features of characters] to P values."""

    projection: nn.Linear

    def __init__(self, dictionary: Dictionary, *, proj_dim: int, filters: list[tuple[int, int]], **sizes: Any) -> None:
        super().__init__(num_characters=dictionary.num_characters, proj_dim=proj_dim, filters=filters, **sizes)
        self.alphabet = dictionary
        embed = torch.empty(len(dictionary.words), dictionary.word_dim) if dictionary.words else None
        self.word_embed = None if embed is None else nn.Parameter(nn.init.uniform_(embed, -1.0, 1.0))
        self.projection = nn.Linear(dictionary.word_dim + sum(number for _, number in filters), proj_dim)

    def forward(self, rows_uc: Tensor, lengths_u: Tensor | None = None) -> Tensor:
        characters = fill(rows_uc[:, 1:])
        features = self._features(characters, lengths_u)
        if self.word_embed is not None:
            numbers = F.pad(rows_uc[:, 0], (0, len(characters) - len(rows_uc)))
            features = torch.cat([self.word_embed[numbers].to(features.dtype), features], 1)
        return linear(features, self.projection.weight, self.projection.bias)[: len(rows_uc)]


def make_encoder(config: ModelConfig) -> TokenEncoder:
    """Return the token encoder of a model."""
    sizes: dict[str, Any] = {
        "character_dim": config.character_dim,
        "filters": [(width, number) for width, number in config.filters],
        "activation": config.activation,
        "num_highway": config.num_highway,
        "proj_dim": config.projection_dim,
    }
    dictionary = dictionary_of(config)
    return TokenEncoder(**sizes) if dictionary is None else DictionaryEncoder(dictionary, **sizes)
