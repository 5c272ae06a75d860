"""Natural language inference: ESIM (Chen et al. 2017).

Sources: AllenNLP training_config/esim.jsonnet and models/esim.py. Premise and
hypothesis share all layers.

    words      GloVe 840B 300d, lower-cased, trained
    variational dropout 0.5, biLSTM 300 a direction, then ELMo's output place      600, with ELMo 1624
    e = p h^T; p~ = softmax over the hypothesis, h~ = softmax over the premise
    [p; p~; p - p~; p * p~]                                                        2400, with ELMo 6496
    linear 300, relu; variational dropout 0.5; biLSTM 300                          600
    [mean p; max p; mean h; max h]                                                 2400
    dropout 0.5, linear 300, relu, dropout 0.5, linear 3; cross entropy
    ELMo at both places, lambda 0.001, layer norm (the paper's appendix); no dropout but the variational one
    training: Adam 4e-4, halved after each epoch without a better score, batch 32, global norm 10, at most 75 epochs,
    patience 5

AllenNLP's form throughout, with ELMo's places, mix and dropout as in the paper (its own configuration has ELMo instead
of GloVe and at the input only). The paper (appendix) has fixed vectors, words.vectors=fixed, clips at norm 5
and, with ELMo, adds weight decay and a dropout after attention, which are left out here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config.task_networks import EntailmentConfig
from pipeline.tasks.examples.types import SentencePair
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.layers.attention import masked_max, masked_mean, masked_softmax
from pipeline.tasks.networks.layers.dense import VariationalDropout, dense, position_in
from pipeline.tasks.networks.layers.recurrent import Bidirectional, xavier_orthogonal_
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.sequences import Batch, Sequences, Tables


@dataclass(frozen=True)
class PairBatch(Batch):
    """sequences: premise, hypothesis. labels (B,) int64."""

    labels: Tensor


class Entailment(TaskNetwork[SentencePair, PairBatch, str]):
    def __init__(
        self, config: EntailmentConfig, embedder: Embedder, placement: ElmoPlacement, labels: tuple[str, ...]
    ) -> None:
        super().__init__(config, embedder, placement, labels)
        hidden = config.hidden
        self.variational_dropout = VariationalDropout(config.dropout)
        self.encoder = Bidirectional("lstm", self.input_dim, hidden, xavier_orthogonal_)
        self.enhanced_dim = 4 * (2 * hidden + placement.output_dim)
        self.projection = nn.Sequential(dense(self.enhanced_dim, hidden), nn.ReLU())
        self.composition = Bidirectional("lstm", hidden, hidden, xavier_orthogonal_)
        self.pooled_dim = 4 * 2 * hidden
        self.classifier = nn.Sequential(
            nn.Dropout(config.dropout),
            dense(self.pooled_dim, hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            dense(hidden, len(labels)),
        )

    @staticmethod
    def labels_of(examples: Sequence[SentencePair]) -> tuple[str, ...]:
        return tuple(sorted({example.label for example in examples}))

    @staticmethod
    def make_batch(examples: Sequence[SentencePair], tables: Tables) -> PairBatch:
        premises = tables.sequences([example.premise for example in examples])
        hypotheses = tables.sequences([example.hypothesis for example in examples])
        labels = position_in([example.label for example in examples], tables.label_rows)
        return PairBatch((premises, hypotheses), labels)

    def scores(self, batch: PairBatch) -> Tensor:
        """(B, labels)."""
        premise, hypothesis = batch.sequences
        p, h = self._encode(premise), self._encode(hypothesis)
        similarity = p @ h.transpose(1, 2)
        p_attended = masked_softmax(similarity, hypothesis.mask[:, None]) @ h
        h_attended = masked_softmax(similarity.transpose(1, 2), premise.mask[:, None]) @ p
        p, h = self._compose(p, p_attended, premise), self._compose(h, h_attended, hypothesis)
        pooled = [pool(x, s.mask) for x, s in ((p, premise), (h, hypothesis)) for pool in (masked_mean, masked_max)]
        return self.classifier(torch.cat(pooled, -1))

    def loss(self, batch: PairBatch) -> Tensor:
        return nn.functional.cross_entropy(self.scores(batch), batch.labels)

    @torch.no_grad()
    def predict(self, batch: PairBatch) -> list[str]:
        return [self.labels[label] for label in self.scores(batch).argmax(-1).tolist()]

    def _encode(self, sequences: Sequences) -> Tensor:
        h_bth = self.encoder(self.variational_dropout(self.embed(sequences)), sequences.lengths)
        return self.placement.at_output(h_bth, sequences)

    def _compose(self, x: Tensor, attended: Tensor, sequences: Sequences) -> Tensor:
        enhanced = torch.cat([x, attended, x - attended, x * attended], -1)
        return self.composition(self.variational_dropout(self.projection(enhanced)), sequences.lengths)
