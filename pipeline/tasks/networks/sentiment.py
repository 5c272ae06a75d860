"""Sentiment of a sentence: the biattentive classification network (McCann et al. 2017).

Sources: AllenNLP training_config/biattentive_classification_network[_elmo].jsonnet and its model.

    words      GloVe 840B 300d, fixed; [with ELMo 1324]; dropout 0.25 (0.5 in AllenNLP's ELMo run)
    linear 300, relu, dropout 0.25; biLSTM 300 a direction: X                      600
    A = softmax(X X^T), C = A X; [X; X - C; X * C]                                 1800
    biLSTM 300: Y                                                                  600
    with ELMo at the output: biLSTM 300 of [Y; ELMo] is Y                          600
    [max Y; min Y; mean Y; self-attentive Y]                                       2400
    dropout 0.1; maxout of 4 pieces: 1200, dropout 0.2; 600, dropout 0.3; 5 classes; cross entropy
    ELMo at both places, lambda 0.001 (the paper's appendix), no dropout of its own
    training: every labelled phrase, Adam 1e-3, batch 100, global norm 5, at most 40 epochs, patience 5

The dropout at the input is 0.25 with and without ELMo: the baseline must get what the ELMo run gets. The paper
(appendix) has two relu layers instead of maxout (network.maxout=false) and Adam 1e-4. The biLSTM over ELMo at the
output is the paper's too. AllenNLP has ELMo at the input only; it can pool [Y; ELMo] as it is, which learned worse than
no ELMo here (docs/results.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config.task_networks import SentimentConfig
from pipeline.tasks.examples.types import LabelledSentence
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.layers.attention import masked_max, masked_mean, masked_min, masked_softmax
from pipeline.tasks.networks.layers.dense import Maxout, position_in
from pipeline.tasks.networks.layers.recurrent import Bidirectional
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.sequences import Batch, Tables


@dataclass(frozen=True)
class SentenceBatch(Batch):
    """labels (B,) int64."""

    labels: Tensor


class Sentiment(TaskNetwork[LabelledSentence, SentenceBatch, str]):
    def __init__(
        self, config: SentimentConfig, embedder: Embedder, placement: ElmoPlacement, labels: tuple[str, ...]
    ) -> None:
        super().__init__(config, embedder, placement, labels)
        hidden = config.hidden
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.pre_encoder = nn.Sequential(
            nn.Linear(self.input_dim, hidden), nn.ReLU(), nn.Dropout(config.encoder_dropout)
        )
        self.encoder = Bidirectional("lstm", hidden, hidden)
        self.integrator = Bidirectional("lstm", 3 * 2 * hidden, hidden)
        at_output = placement.output_dim
        self.output_encoder = Bidirectional("lstm", 2 * hidden + at_output, hidden) if at_output else None
        self.self_attention = nn.Linear(2 * hidden, 1)
        self.pooled_dim = 4 * 2 * hidden
        self.output_dropout = nn.Dropout(config.output_dropout[0])
        self.classifier = _classifier(config, self.pooled_dim, len(labels))

    @staticmethod
    def labels_of(examples: Sequence[LabelledSentence]) -> tuple[str, ...]:
        return tuple(sorted({example.label for example in examples}))

    @staticmethod
    def make_batch(examples: Sequence[LabelledSentence], tables: Tables) -> SentenceBatch:
        labels = position_in([example.label for example in examples], tables.label_rows)
        return SentenceBatch((tables.sequences([example.words for example in examples]),), labels)

    def scores(self, batch: SentenceBatch) -> Tensor:
        """(B, labels)."""
        (sequences,) = batch.sequences
        mask, lengths = sequences.mask, sequences.lengths
        x = self.encoder(self.pre_encoder(self.embedding_dropout(self.embed(sequences))), lengths)
        context = masked_softmax(x @ x.transpose(1, 2), mask[:, None]) @ x
        y = self.integrator(torch.cat([x, x - context, x * context], -1), lengths)
        if self.output_encoder is not None:
            y = self.output_encoder(self.placement.at_output(y, sequences), lengths)
        weights = masked_softmax(self.self_attention(y)[..., 0], mask)
        attentive = (weights[:, None] @ y)[:, 0]
        pooled = torch.cat([masked_max(y, mask), masked_min(y, mask), masked_mean(y, mask), attentive], -1)
        return self.classifier(self.output_dropout(pooled))

    def loss(self, batch: SentenceBatch) -> Tensor:
        return nn.functional.cross_entropy(self.scores(batch), batch.labels)

    @torch.no_grad()
    def predict(self, batch: SentenceBatch) -> list[str]:
        return [self.labels[label] for label in self.scores(batch).argmax(-1).tolist()]


def _classifier(config: SentimentConfig, pooled_dim: int, num_labels: int) -> nn.Module:
    (first, second), (_, *dropout) = config.output_hidden, config.output_dropout
    if config.maxout:
        return Maxout(pooled_dim, (first, second, num_labels), (*dropout, 0.0))
    return nn.Sequential(
        nn.Linear(pooled_dim, first),
        nn.ReLU(),
        nn.Dropout(dropout[0]),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Dropout(dropout[1]),
        nn.Linear(second, num_labels),
    )
