"""ELMo as a layer of a task model: sentences in, learned mixes of the biLM's layers out.

By default each sentence starts from the zero state. AllenNLP's `Elmo` and bilm-tf keep states from batch to batch, as
stateful=True does here. How to move from them: docs/guide/moving.md.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.characters import UTF8
from pipeline.config.schema import require
from pipeline.model.bilm import BiLM
from pipeline.model.elmo.scalar_mix import ScalarMix
from pipeline.model.elmo.sentence_batch import character_ids
from pipeline.model.elmo.sentence_encoder import SentenceEncoder, Sentences, pad


class ElmoOutput(NamedTuple):
    """mixed: one (B, n, 2 P) for each mix, zeros at padding. mask (B, n) bool: True at words.

    layers (L + 1, B, n, 2 P): layer 0 is [token, token], the others are [forward, backward]; None unless requested.
    """

    mixed: list[Tensor]
    mask: Tensor
    layers: Tensor | None


class ElmoModule(nn.Module):
    """A biLM and any number of mixes of its layers. `pipeline.Elmo` (pretrained.py) also loads and saves them."""

    def __init__(
        self,
        bilm: BiLM,
        num_outputs: int = 1,
        *,
        layers: str | Sequence[float] = "mix",
        dropout: float = 0.0,
        layer_norm: bool | str = False,
        l2: float = 0.0,
        trainable: bool = False,
        stateful: bool = False,
    ) -> None:
        """layers: "mix" (learned), "top", or a fixed weight for each layer. dropout: on each mix, in training.

        layer_norm: normalise each layer over all words of the batch before mixing: True as bilm-tf does, "allennlp"
        with <S> and </S> among the words. l2: lambda of `regularization`. trainable: train the biLM's weights too
        (this sets their requires_grad). stateful: rows of a batch start from the state of the batch before.
        """
        super().__init__()
        require(num_outputs >= 0, f"num_outputs={num_outputs} must not be negative")
        require(layer_norm in (True, False, "allennlp"), f"layer_norm={layer_norm!r} must be true, false or allennlp")
        weights = layers if isinstance(layers, str) else [float(w) for w in layers]
        self.options = dict(num_outputs=num_outputs, layers=weights, dropout=dropout, layer_norm=layer_norm)
        self.options |= dict(l2=l2, trainable=trainable, stateful=stateful)
        self.sentence_encoder = SentenceEncoder(bilm.core().requires_grad_(trainable), stateful)
        num_layers = bilm.config.num_layers + 1
        mixes = (ScalarMix(num_layers, layers, bool(layer_norm)) for _ in range(num_outputs))
        self.mixes = nn.ModuleList(mixes).to(bilm.device)
        self.dropout, self.l2 = nn.Dropout(dropout), l2
        self._with_bounds = layer_norm == "allennlp"

    @property
    def bilm(self) -> BiLM:
        return self.sentence_encoder.bilm

    @property
    def output_dim(self) -> int:
        """2 P: the number of values of a word in a layer or a mix."""
        return 2 * self.bilm.config.projection_dim

    def forward(self, sentences: Sentences, return_layers: bool = False) -> ElmoOutput:
        """Return the mixes of sentences: B lists of words, or character ids (B, n, 50).

        Character ids come from `character_ids` or from AllenNLP's `batch_to_ids`.
        """
        packed = self.sentence_encoder.encode(sentences, self._with_bounds)
        mixed = [mix(packed.layers) for mix in self.mixes]
        if self._with_bounds:
            packed = packed.without_bounds()
        width = sentences.shape[1] if isinstance(sentences, Tensor) else int(packed.lengths.max(initial=0))
        places, mask = packed.places(width)
        layers = pad(packed.layers, places) if return_layers else None
        return ElmoOutput([self.dropout(pad(m, places)) for m in mixed], mask, layers)

    def embed(self, sentences: Sentences) -> list[Tensor]:
        """Return all layers (L + 1, n, 2 P) of each sentence, without padding and without gradient."""
        with torch.no_grad():
            return self.sentence_encoder.encode(sentences).sentences()

    def character_ids(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Return (B, n, C) int64 as AllenNLP's `batch_to_ids` does: zeros after a sentence's end."""
        is_utf8 = self.bilm.encoder.alphabet is UTF8
        require(is_utf8, "this model has a dictionary of characters: give it words, not character ids")
        return torch.from_numpy(character_ids(sentences, self.bilm.config.max_characters))

    def regularization(self) -> Tensor:
        """Return lambda times the sum over the mixes of s squared, to be added to the caller's loss."""
        return self.l2 * sum((mix.squared_scalars() for mix in self.mixes), torch.zeros(()))  # type: ignore[operator]

    def cache_vocabulary(self, words: Sequence[str]) -> None:
        """Compute and cache the context-free vectors of `words`. Vectors do not change; other words take longer.

        Raises ConfigError if the biLM is trainable.
        """
        self.sentence_encoder.cache_vocabulary(words)

    def reset_states(self) -> None:
        """Start the next batch from the zero state (for stateful=True)."""
        self.sentence_encoder.reset_states()


def representations(layers: Tensor) -> Tensor:
    """Turn (L + 1, ..., 2 P) into (2 L + 1, ..., P), the paper's R: token vector, then each layer's two directions."""
    tokens, contexts = layers[:1].chunk(2, -1)[0], layers[1:].chunk(2, -1)
    return torch.cat([tokens, torch.stack(contexts, 1).flatten(0, 1)])
