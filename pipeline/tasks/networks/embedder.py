"""The task's own word vectors: looked up, spelled by a character CNN, or both."""

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.config.schema import require
from pipeline.config.task_networks import CharacterCnnConfig, EmbedderConfig
from pipeline.tasks.networks.sequences import PADDING, Sequences


class CharacterCnn(nn.Module):
    """Spell words: embeddings, convolutions without padding, relu, maximum over positions.

    Each word has the positions of its own length, at least one, so that other words of the batch do not change it.
    (AllenNLP takes the maximum over the positions of the batch's longest word.)
    """

    def __init__(self, config: CharacterCnnConfig, num_characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_characters + 2, config.dim, padding_idx=PADDING)
        if config.init_range is None:
            nn.init.xavier_uniform_(self.embedding.weight)
        else:
            nn.init.uniform_(self.embedding.weight, -config.init_range, config.init_range)
        with torch.no_grad():
            self.embedding.weight[PADDING] = 0
        self.convolutions = nn.ModuleList(nn.Conv1d(config.dim, number, width) for width, number in config.filters)
        self.dropout = nn.Dropout(config.dropout)
        self.output_dim = sum(number for _, number in config.filters)

    def forward(self, characters: Tensor) -> Tensor:
        """(N, C) -> (N, output_dim)."""
        lengths = (characters != PADDING).sum(1, keepdim=True)
        x_ndc = self.dropout(self.embedding(characters)).transpose(1, 2)
        return torch.relu(torch.cat([self._peaks(c, x_ndc, lengths) for c in self.convolutions], 1))

    @staticmethod
    def _peaks(convolution: nn.Module, x_ndc: Tensor, lengths: Tensor) -> Tensor:
        y_nfc = convolution(x_ndc)
        positions = y_nfc.shape[2]
        width = x_ndc.shape[2] - positions + 1
        inside = torch.arange(positions, device=lengths.device) < (lengths - width + 1).clamp(min=1)
        return y_nfc.masked_fill(~inside[:, None], -torch.inf).amax(2)


class Embedder(nn.Module):
    """[word vector; spelling] of each word.

    vectors: (V + 2, D) of `choose_words`, None for no word vectors. num_characters: entries of the character table.
    """

    vectors: Tensor

    def __init__(self, config: EmbedderConfig, vectors: np.ndarray | None, num_characters: int = 0) -> None:
        super().__init__()
        require(
            (vectors is None) == (config.vectors == "none"),
            f"words.vectors={config.vectors} does not fit the vectors",
        )
        if vectors is not None:
            values = torch.from_numpy(np.ascontiguousarray(vectors, np.float32))
            if config.vectors == "trained":
                self.vectors = nn.Parameter(values.clone())
            else:
                self.register_buffer("vectors", values.clone())
        self._has_words = vectors is not None
        self.cnn = CharacterCnn(config.cnn, num_characters) if config.cnn else None
        word_dim = 0 if vectors is None else vectors.shape[1]
        self.output_dim = word_dim + (self.cnn.output_dim if self.cnn else 0)

    def forward(self, sequences: Sequences) -> Tensor:
        """(B, T, output_dim), zeros at padding."""
        mask = sequences.mask
        parts = []
        if self._has_words:
            parts.append(nn.functional.embedding(sequences.words, self.vectors, padding_idx=PADDING))
        if self.cnn:
            assert sequences.characters is not None, "the tables lack the characters that the embedder was built for"
            spelled = self.cnn(sequences.characters[mask])
            parts.append(spelled.new_zeros(*mask.shape, spelled.shape[1]).masked_scatter(mask[..., None], spelled))
        return torch.cat(parts, -1) if parts else torch.zeros(*mask.shape, 0, device=mask.device)
