"""Answer a question by a span of a paragraph: BiDAF with self-attention (Clark and Gardner 2018).

Source: the ELMo authors' own code, document-qa elmo/ablate_elmo_model.py. "VD" is
variational dropout 0.2. Question and context share layers 1 to 3.

    1  words      GloVe 840B 300d, fixed, cased with a fallback to lower case, unknown words zero
    2  characters 20d, seen 49 times, the first 14 of a word, dropout 0.2; 100 filters of width 5, relu, maximum
    3  [400, with ELMo 1424] -> VD -> biGRU 90 -> VD, then ELMo's output place     180, with ELMo 1204
    4  bi-attention, trilinear: [x; a; x * a; x * c]                               720, with ELMo 4816
    5  linear 180, relu: u
       residual: u + f(u), f = VD, biGRU 90, VD, self-attention, [r; z; r * z], linear 180, relu; then VD
    6  start: biGRU 90 -> linear 1.  end: biGRU 90 of [v; the start's GRU] -> linear 1

Loss: cross entropy of start and end, each time for a random one of the gold spans; loss="all" is Clark and Gardner's
own, on the summed probability of all gold starts and ends. Decoding: the best start + end, at most 17 words.
ELMo: at both places, dropout 0.5, no lambda. Training: Adadelta rho 0.95, eps 1e-8, rate 1, batch 45, 24 epochs, no
clipping; the moving average (0.999) of the weights is evaluated every 1,200 steps, and the best is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.config.task_networks import QuestionAnsweringConfig
from pipeline.tasks.examples.types import Question, Span
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.layers.attention import BiAttention, SelfAttention
from pipeline.tasks.networks.layers.dense import VariationalDropout, dense
from pipeline.tasks.networks.layers.recurrent import Bidirectional, truncated_normal_
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.sequences import Batch, Sequences, Tables


@dataclass(frozen=True)
class QuestionBatch(Batch):
    """sequences: context, question. spans (B, A, 2) int64: first and last word of each gold answer, -1 behind them."""

    spans: Tensor


class QuestionAnswering(TaskNetwork[Question, QuestionBatch, Span]):
    config: QuestionAnsweringConfig

    def __init__(
        self, config: QuestionAnsweringConfig, embedder: Embedder, placement: ElmoPlacement, labels: tuple[str, ...]
    ) -> None:
        super().__init__(config, embedder, placement, labels)
        width = 2 * config.hidden
        self.dropout = VariationalDropout(config.dropout)
        self.encoder = self._gru(self.input_dim)
        self.bi_attention = BiAttention(width + placement.output_dim)
        self.attended_dim = 4 * (width + placement.output_dim)
        self.merge = nn.Sequential(dense(self.attended_dim, width), nn.ReLU())
        self.residual_encoder = self._gru(width)
        self.self_attention = SelfAttention(width)
        self.residual_merge = nn.Sequential(dense(3 * width, width), nn.ReLU())
        self.start_encoder, self.end_encoder = self._gru(width), self._gru(2 * width)
        self.start, self.end = dense(width, 1), dense(width, 1)

    @staticmethod
    def labels_of(examples: Sequence[Question]) -> tuple[str, ...]:
        return ()

    @staticmethod
    def make_batch(examples: Sequence[Question], tables: Tables) -> QuestionBatch:
        contexts = tables.sequences([example.context for example in examples])
        questions = tables.sequences([example.question for example in examples])
        spans = torch.full((len(examples), max(1, *(len(example.spans) for example in examples)), 2), -1)
        for row, example in zip(spans, examples, strict=True):
            for place, span in zip(row, example.spans, strict=False):
                place.copy_(torch.tensor(span))
        return QuestionBatch((contexts, questions), spans)

    def scores(self, batch: QuestionBatch) -> tuple[Tensor, Tensor]:
        """Return the logits of start and end, each (B, T), lowest at padding."""
        context, question = batch.sequences
        x, q = self._encode(context), self._encode(question)
        u = self.merge(self.bi_attention(x, context.mask, q, question.mask))
        v = self.dropout(u + self._residual(u, context))
        start = self.start_encoder(v, context.lengths)
        end = self.end_encoder(torch.cat([v, start], -1), context.lengths)
        lowest = torch.finfo(v.dtype).min
        first, last = (
            linear(h)[..., 0].masked_fill(~context.mask, lowest) for linear, h in ((self.start, start), (self.end, end))
        )
        return first, last

    def loss(self, batch: QuestionBatch) -> Tensor:
        """Return the mean over the questions that have a gold span; the random choice is made in training only."""
        is_gold = (batch.spans >= 0).all(2)
        answered = is_gold.any(1)
        is_gold, spans = is_gold[answered], batch.spans[answered]
        if self.config.loss == "random" and len(spans):
            choice = torch.multinomial(is_gold.float(), 1)[:, 0] if self.training else is_gold.int().argmax(1)
            is_gold = nn.functional.one_hot(choice, spans.shape[1]).bool()
        sides = zip(self.scores(batch), spans.unbind(2), strict=True)
        losses = sum(_loss_of_places(logits[answered], places, is_gold).sum() for logits, places in sides)
        return torch.as_tensor(losses) / max(1, len(spans))

    @torch.no_grad()
    def predict(self, batch: QuestionBatch) -> list[Span]:
        first, last = self.scores(batch)
        return [best_span(*pair, self.config.max_answer) for pair in zip(first, last, strict=True)]

    def _encode(self, sequences: Sequences) -> Tensor:
        h_bth = self.dropout(self.encoder(self.dropout(self.embed(sequences)), sequences.lengths))
        return self.placement.at_output(h_bth, sequences)

    def _residual(self, u: Tensor, context: Sequences) -> Tensor:
        r = self.dropout(self.residual_encoder(self.dropout(u), context.lengths))
        z = self.self_attention(r, context.mask)
        return self.residual_merge(torch.cat([r, z, r * z], -1))

    def _gru(self, input_dim: int) -> Bidirectional:
        return Bidirectional("gru", input_dim, self.config.hidden, truncated_normal_)


def _loss_of_places(logits: Tensor, places: Tensor, chosen: Tensor) -> Tensor:
    """(B,): minus the log of the summed probability of the distinct chosen places."""
    is_place = places[..., None] == torch.arange(logits.shape[1], device=logits.device)
    gold = (is_place & chosen[..., None]).any(1)
    return torch.logsumexp(logits, 1) - torch.logsumexp(logits.masked_fill(~gold, -torch.inf), 1)


def best_span(start: Tensor, end: Tensor, max_answer: int) -> Span:
    """Return (first, last) with the greatest start + end, first <= last < first + max_answer."""
    sums = start[:, None] + end[None]
    allowed = torch.ones_like(sums, dtype=torch.bool).triu().tril(max_answer - 1)
    place = int(sums.masked_fill(~allowed, -torch.inf).argmax())
    return place // len(end), place % len(end)
