"""Tag each word of a sentence: parts of speech by softmax, entities by a CRF.

Sources: AllenNLP training_config/ner.jsonnet and models/crf_tagger.py. NER:

    words      GloVe 6B 50d, lower-cased, trained
    characters 16d, 128 filters of width 3, relu, maximum                          178, with ELMo 1202
    dropout    0.5
    biLSTM     2 layers, 200 a direction, dropout 0.5 between                      400
    dropout    0.5
    linear     one score a tag
    CRF        no start or end scores; BIOES rules at decoding only
    ELMo       at the input, no dropout of its own, lambda 0.1, small beside the summed loss (ner_elmo.jsonnet:50,80)
    training   Adam 1e-3, batch 64, global norm 5, at most 75 epochs, patience 25

The paper (appendix) has Senna vectors, a second layer of 100 units and variational dropout at both LSTM inputs:
network.hidden=[200,100] with network.variational=true is that form. Labels hold B-, I-, E- and S- of each type, seen or
not, so that every entity can be decoded.

POS has the same layers and a softmax. Neither the paper nor AllenNLP has a POS tagger with a task RNN. Its training
(Adam 1e-3, batch 80, at most 50 epochs, patience 3) is that of contextual-repr-analysis, ptb_pos_tagging.json.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config.task_networks import TaggerConfig
from pipeline.tasks.examples.types import TaggedSentence
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.layers.crf import Constraints, Crf, constraints, viterbi
from pipeline.tasks.networks.layers.dense import VariationalDropout, sequence_cross_entropy
from pipeline.tasks.networks.layers.recurrent import BidirectionalStack
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.sequences import Batch, Tables, padded


@dataclass(frozen=True)
class TaggedBatch(Batch):
    """tags (B, T) int64: places among the labels, 0 at padding and where the label is unknown."""

    tags: Tensor


class Tagger(TaskNetwork[TaggedSentence, TaggedBatch, tuple[str, ...]]):
    def __init__(
        self, config: TaggerConfig, embedder: Embedder, placement: ElmoPlacement, labels: tuple[str, ...]
    ) -> None:
        super().__init__(config, embedder, placement, labels)
        self.input_dropout, self.output_dropout = self._dropout(config), self._dropout(config)
        self.encoder = BidirectionalStack(self.input_dim, config.hidden, lambda: self._dropout(config))
        self.projection = nn.Linear(self.encoder.output_dim + placement.output_dim, len(labels))
        self.crf = Crf(len(labels)) if config.crf else None
        rules = constraints(labels, "bioes" if config.crf else "none")
        for name, rule in rules._asdict().items():
            self.register_buffer(f"rule_{name}", rule, persistent=False)

    @staticmethod
    def labels_of(examples: Sequence[TaggedSentence]) -> tuple[str, ...]:
        tags = {tag for example in examples for tag in example.tags}
        types = {tag.partition("-")[2] for tag in tags if tag[:2] in ("B-", "I-", "E-", "S-")}
        return tuple(sorted(tags | {f"{prefix}-{kind}" for kind in types for prefix in "BIES"}))

    @staticmethod
    def make_batch(examples: Sequence[TaggedSentence], tables: Tables) -> TaggedBatch:
        sequences = tables.sequences([example.words for example in examples])
        tags = [[tables.label_rows.get(tag, 0) for tag in example.tags] for example in examples]
        return TaggedBatch((sequences,), padded(tags, sequences.mask.shape[1]))

    def scores(self, batch: TaggedBatch) -> Tensor:
        """(B, T, labels)."""
        (sequences,) = batch.sequences
        h_bth = self.encoder(self.input_dropout(self.embed(sequences)), sequences.lengths)
        return self.projection(self.placement.at_output(self.output_dropout(h_bth), sequences))

    def loss(self, batch: TaggedBatch) -> Tensor:
        """Return the CRF's negative log-likelihood, summed over the batch; softmax: the mean of sentence means."""
        mask = batch.sequences[0].mask
        if self.crf is not None:
            return self.crf.negative_log_likelihood(self.scores(batch), batch.tags, mask)
        return sequence_cross_entropy(self.scores(batch), batch.tags, mask)

    @torch.no_grad()
    def predict(self, batch: TaggedBatch) -> list[tuple[str, ...]]:
        rules = Constraints(*(self.get_buffer(f"rule_{name}") for name in Constraints._fields))
        transitions = torch.zeros_like(rules.transitions) if self.crf is None else self.crf.transitions
        paths = viterbi(self.scores(batch), batch.sequences[0].mask, transitions, rules)
        return [tuple(self.labels[tag] for tag in path) for path in paths]

    @staticmethod
    def _dropout(config: TaggerConfig) -> nn.Module:
        return VariationalDropout(config.dropout) if config.variational else nn.Dropout(config.dropout)
