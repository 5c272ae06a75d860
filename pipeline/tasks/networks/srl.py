"""Semantic role labelling: the arguments of one predicate, by 8 alternating highway LSTM layers.

Sources: He et al. 2017 (deep_srl); AllenNLP semantic_role_labeler.

    words      GloVe 6B 100d, lower-cased, trained
    predicate  embedding of "this is the predicate", 100d                          200, with ELMo 1224
    LSTM       8 layers of 300 units, alternating directions, recurrent dropout 0.1
    linear     one score a BIO tag; softmax, cross entropy
    decoding   Viterbi on log-probabilities: I-X only after B-X or I-X
    ELMo       at the input, dropout 0.1, lambda 0.001 (semantic_role_labeler_elmo.jsonnet:21,48)
    training   Adadelta rho 0.95, eps 1e-6, rate 1, batch 80, each gradient value at most 1, at most 500 epochs,
               patience 200 (AllenNLP: 20 without ELMo, which would flatter ELMo), sentences of at most 100 words

AllenNLP with ELMo leaves GloVe out (input 1124): words.vectors=none is that form; its tutorial and the paper
keep GloVe, as here. The loss is AllenNLP's mean over a sentence's words, then over the batch; deep_srl sums over words
and clips the global norm at 1.0, where AllenNLP clamps each element.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config.task_networks import SrlConfig
from pipeline.tasks.examples.types import PredicateFrame
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.layers.crf import Constraints, constraints, viterbi
from pipeline.tasks.networks.layers.dense import sequence_cross_entropy
from pipeline.tasks.networks.layers.highway_lstm import AlternatingHighwayLstm
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.sequences import Batch, Tables, padded


@dataclass(frozen=True)
class SrlBatch(Batch):
    """is_predicate (B, T) and tags (B, T): int64; a tag is a place among the labels."""

    is_predicate: Tensor
    tags: Tensor


class Srl(TaskNetwork[PredicateFrame, SrlBatch, tuple[str, ...]]):
    def __init__(
        self, config: SrlConfig, embedder: Embedder, placement: ElmoPlacement, labels: tuple[str, ...]
    ) -> None:
        super().__init__(config, embedder, placement, labels)
        self.predicate = nn.Embedding(2, config.predicate_dim)
        self.lstm_input_dim = self.input_dim + config.predicate_dim
        self.encoder = AlternatingHighwayLstm(self.lstm_input_dim, config.hidden, config.num_layers, config.dropout)
        self.projection = nn.Linear(config.hidden + placement.output_dim, len(labels))
        nn.init.orthogonal_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)
        for name, rule in constraints(labels, "bio")._asdict().items():
            self.register_buffer(f"rule_{name}", rule, persistent=False)

    @staticmethod
    def labels_of(examples: Sequence[PredicateFrame]) -> tuple[str, ...]:
        return tuple(sorted({tag for example in examples for tag in example.tags} | {"O"}))

    @staticmethod
    def make_batch(examples: Sequence[PredicateFrame], tables: Tables) -> SrlBatch:
        sequences = tables.sequences([example.words for example in examples])
        is_predicate = torch.zeros_like(sequences.words)
        is_predicate[torch.arange(len(examples)), [example.predicate for example in examples]] = 1
        tags = [[tables.label_rows.get(tag, tables.label_rows["O"]) for tag in example.tags] for example in examples]
        return SrlBatch((sequences,), is_predicate, padded(tags, sequences.mask.shape[1]))

    def scores(self, batch: SrlBatch) -> Tensor:
        """(B, T, labels)."""
        (sequences,) = batch.sequences
        x_btd = torch.cat([self.embed(sequences), self.predicate(batch.is_predicate)], -1)
        return self.projection(self.placement.at_output(self.encoder(x_btd, sequences.lengths), sequences))

    def loss(self, batch: SrlBatch) -> Tensor:
        return sequence_cross_entropy(self.scores(batch), batch.tags, batch.sequences[0].mask)

    @torch.no_grad()
    def predict(self, batch: SrlBatch) -> list[tuple[str, ...]]:
        rules = Constraints(*(self.get_buffer(f"rule_{name}") for name in Constraints._fields))
        scores = torch.log_softmax(self.scores(batch), -1)
        paths = viterbi(scores, batch.sequences[0].mask, torch.zeros_like(rules.transitions), rules)
        return [tuple(self.labels[tag] for tag in path) for path in paths]
