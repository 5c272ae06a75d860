"""Coreference: which spans of a document mean the same, by ranking each span's antecedents (Lee et al. 2017).

Source: e2e-coref (branch e2e) coref_model.py, experiments.conf:38-77.

    words      GloVe 300d and Turian 50d, cased, each of length 1, fixed, unknown words zero
    characters 8d, 50 filters of each width 3, 4, 5, relu, maximum                 x: 500
    dropout 0.5 on x; biLSTM 200 a direction, each sentence apart, dropout 0.2     y: 400 (input with ELMo 1524)
    spans      of at most 10 words inside a sentence
               g = [y first; y last; width 20; softmax-weighted sum of x]          1320
    mention    2 x 150 relu, dropout 0.2 -> s_m; keep the best 0.4 a word that do not cross
    pairs      with the 250 nearest kept spans before: phi = [same speaker 20; genre 20; distance 20], dropout 0.2
               [g_i; g_j; g_i * g_j; phi]                                          4020
               2 x 150 relu, dropout 0.2 -> s = s_m(i) + s_m(j) + s_pair; no antecedent scores 0
    loss       minus the log of the summed probability of all gold antecedents, summed over spans
    decoding   best antecedent, transitive closure, single spans dropped
    ELMo       at the input, dropout 0.5, no lambda (c2f-coref coref_model.py:260-271)
    training   Adam 1e-3, times 0.999 every 100 steps, global norm 5, one document a step, cut to 50 sentences;
               at most 150 epochs, patience 10 (AllenNLP coref.jsonnet; e2e-coref trains without end)

ELMo stays out of the sum of x, as in c2f-coref. The LSTM is torch.nn's, as in AllenNLP; e2e-coref has coupled gates, a
trained initial state and recurrent dropout. AllenNLP has no speaker and no genre, and 100 antecedents. Memory: nothing
of size spans x 1320 or kept x kept exists, only what pruning leaves (`_mention_scores`, `_pair_scores`).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.config.task_networks import CoreferenceConfig
from pipeline.tasks.examples.types import CorefDocument, Span
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.layers.dense import FeedForward, dense
from pipeline.tasks.networks.layers.recurrent import Bidirectional, block_orthogonal_
from pipeline.tasks.networks.layers.spans import (
    NUM_DISTANCE_BINS,
    best_without_crossing,
    candidate_spans,
    distance_bins,
    span_attention,
    weighted_words,
)
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.sequences import Batch, Tables

Clusters = tuple[tuple[Span, ...], ...]


@dataclass(frozen=True)
class CoreferenceBatch(Batch):
    """sequences: all sentences, one document after the other. documents: what else is known of each.

    speakers (words of all documents,) int64 and genres (documents,) int64, 0 for an unknown genre.
    """

    documents: tuple[CorefDocument, ...]
    speakers: Tensor
    genres: Tensor


class Kept(NamedTuple):
    """M spans that pruning leaves, by position: spans (M, 2), vectors (M, dim), mention scores (M,)."""

    spans: Tensor
    vectors: Tensor
    scores: Tensor


class Coreference(TaskNetwork[CorefDocument, CoreferenceBatch, Clusters]):
    config: CoreferenceConfig

    def __init__(
        self, config: CoreferenceConfig, embedder: Embedder, placement: ElmoPlacement, labels: tuple[str, ...]
    ) -> None:
        super().__init__(config, embedder, placement, labels)
        feature = config.feature_dim
        self.lexical_dropout, self.dropout = nn.Dropout(config.lexical_dropout), nn.Dropout(config.dropout)
        self.encoder = Bidirectional("lstm", self.input_dim, config.hidden, block_orthogonal_)
        word_dim = self.encoder.output_dim + placement.output_dim
        self.head = dense(word_dim, 1)
        self.width = _embedding(config.max_width, feature)
        self.span_parts = (word_dim, word_dim, feature, embedder.output_dim)
        self.span_dim = sum(self.span_parts)
        self.mention = self._scorer(self.span_dim)
        self.speaker = _embedding(2, feature) if config.speakers else None
        self.genre = _embedding(len(labels) + 1, feature, padding_idx=0) if labels else None
        self.distance = _embedding(NUM_DISTANCE_BINS, feature)
        self.phi_dim = feature * (1 + (self.speaker is not None) + (self.genre is not None))
        self.pair_dim = 3 * self.span_dim + self.phi_dim
        self.pair = self._scorer(self.pair_dim)

    @staticmethod
    def labels_of(examples: Sequence[CorefDocument]) -> tuple[str, ...]:
        """Return the genres."""
        return tuple(sorted({example.genre for example in examples} - {""}))

    @staticmethod
    def cut(example: CorefDocument, config: CoreferenceConfig, chance: np.random.Generator) -> CorefDocument:
        """Return a random stretch of a long document (Lee et al. 2017, section 6)."""
        spare = len(example.sentences) - config.max_sentences
        return example if spare <= 0 else cut_document(example, int(chance.integers(spare + 1)), config.max_sentences)

    @staticmethod
    def make_batch(examples: Sequence[CorefDocument], tables: Tables) -> CoreferenceBatch:
        names: dict[tuple[int, str], int] = {}
        speakers = [
            names.setdefault((number, name), len(names))
            for number, example in enumerate(examples)
            for sentence in example.speakers
            for name in sentence
        ]
        sequences = tables.sequences([sentence for example in examples for sentence in example.sentences])
        genres = [tables.label_rows.get(example.genre, -1) + 1 for example in examples]
        return CoreferenceBatch((sequences,), tuple(examples), torch.tensor(speakers), torch.tensor(genres))

    def loss(self, batch: CoreferenceBatch) -> Tensor:
        """Return the sum over kept spans, the mean over documents."""
        losses = []
        for document, kept, scores in self._ranked(batch):
            gold = _gold_antecedents(document, kept.spans, scores.shape[1] - 1)
            losses.append((scores.logsumexp(1) - scores.masked_fill(~gold, -torch.inf).logsumexp(1)).sum())
        return torch.stack(losses).mean()

    @torch.no_grad()
    def predict(self, batch: CoreferenceBatch) -> list[Clusters]:
        return [
            joined([(first, last) for first, last in kept.spans.tolist()], scores.argmax(1).tolist())
            for _, kept, scores in self._ranked(batch)
        ]

    def _ranked(self, batch: CoreferenceBatch) -> list[tuple[CorefDocument, Kept, Tensor]]:
        """Return each document's kept spans and the scores (M, 1 + K) of no antecedent and of the K before."""
        (sequences,) = batch.sequences
        x_btd = self.lexical_dropout(self.embedder(sequences))
        h_bth = self.encoder(self.placement.at_input(x_btd, sequences), sequences.lengths)
        y_bty = self.placement.at_output(self.dropout(h_bth), sequences)
        sizes = [sum(map(len, document.sentences)) for document in batch.documents]
        words = (t.split(sizes) for t in (x_btd[sequences.mask], y_bty[sequences.mask], batch.speakers))
        ranked = []
        for document, genre, x, y, speakers in zip(batch.documents, batch.genres, *words, strict=True):
            kept = self._kept_spans(document, x, y)
            ranked.append((document, kept, self._antecedent_scores(kept, speakers, genre)))
        return ranked

    def _kept_spans(self, document: CorefDocument, x: Tensor, y: Tensor) -> Kept:
        on_cpu = candidate_spans([len(sentence) for sentence in document.sentences], self.config.max_width)
        spans = on_cpu.to(x.device)
        places, weights = span_attention(self.head(y)[:, 0], spans, self.config.max_width)
        width = self.dropout(self.width(spans[:, 1] - spans[:, 0]))
        scores = self._mention_scores(x, y, spans, width, places, weights)
        most = max(1, int(self.config.spans_per_word * len(x)))
        pairs = [(first, last) for first, last in on_cpu.tolist()]
        kept = torch.tensor(best_without_crossing(pairs, scores.tolist(), most), device=x.device)
        spans = spans[kept]
        sums = weighted_words(x, places[kept], weights[kept])
        vectors = torch.cat([y[spans[:, 0]], y[spans[:, 1]], width[kept], sums], 1)
        return Kept(spans, vectors, scores[kept])

    def _mention_scores(
        self, x: Tensor, y: Tensor, spans: Tensor, width: Tensor, places: Tensor, weights: Tensor
    ) -> Tensor:
        """(spans,): `self.mention` of [y first; y last; width; sum of x].

        The first dense layer multiplies words before they are gathered into spans, so that (spans, 150) is the largest
        tensor and not (spans, 1320).
        """
        first, *others = self.mention
        assert isinstance(first, nn.Linear)
        of_first, of_last, of_width, of_sum = first.weight.T.split(self.span_parts)
        hidden = (y @ of_first)[spans[:, 0]] + (y @ of_last)[spans[:, 1]] + width @ of_width + first.bias
        hidden = hidden + weighted_words(x @ of_sum, places, weights)
        return nn.Sequential(*others)(hidden)[:, 0]

    def _antecedent_scores(self, kept: Kept, speakers: Tensor, genre: Tensor) -> Tensor:
        """(M, 1 + K): column 0 is no antecedent, column d the kept span d places before; -inf where there is none."""
        count = len(kept.spans)
        most = min(self.config.max_antecedents, count - 1)
        back = torch.arange(1, most + 1, device=genre.device)
        i, column = (torch.arange(count, device=genre.device)[:, None] >= back).nonzero(as_tuple=True)
        j = i - column - 1
        speaker_of = speakers[kept.spans[:, 0]]
        features = self._features(speaker_of[i] == speaker_of[j], genre, i - j)
        scores = self._pair_scores(kept.vectors, i, j, features) + kept.scores[i] + kept.scores[j]
        table = scores.new_full((count, 1 + most), -torch.inf)
        table[:, 0] = 0
        return table.index_put((i, column + 1), scores)

    def _features(self, same_speaker: Tensor, genre: Tensor, distances: Tensor) -> Tensor:
        """(pairs, phi_dim)."""
        parts = [] if self.speaker is None else [self.speaker(same_speaker.long())]
        if self.genre is not None:
            parts.append(self.genre(genre).expand(len(distances), -1))
        return self.dropout(torch.cat([*parts, self.distance(distance_bins(distances))], 1))

    def _pair_scores(self, vectors: Tensor, i: Tensor, j: Tensor, features: Tensor) -> Tensor:
        """(pairs,): `self.pair` of [g_i; g_j; g_i * g_j; phi], a part of the pairs at a time.

        What a part needs is computed again in backward; g_i and g_j are multiplied before they are gathered.
        """
        first, *others = self.pair
        assert isinstance(first, nn.Linear)
        dims = (self.span_dim, self.span_dim, self.span_dim, self.phi_dim)
        of_i, of_j, of_both, of_phi = first.weight.T.split(dims)
        left, right = vectors @ of_i + first.bias, vectors @ of_j

        def scores_of(i: Tensor, j: Tensor, features: Tensor) -> Tensor:
            hidden = left[i] + right[j] + (vectors[i] * vectors[j]) @ of_both + features @ of_phi
            return nn.Sequential(*others)(hidden)[:, 0]

        parts = zip(*(t.split(self.config.pairs_at_once) for t in (i, j, features)), strict=True)
        return torch.cat([checkpoint(scores_of, *part, use_reentrant=False) for part in parts])

    def _scorer(self, input_dim: int) -> nn.Sequential:
        hidden = self.config.scorer_hidden
        return nn.Sequential(*FeedForward(input_dim, hidden, self.config.dropout), dense(hidden[-1], 1))


def _embedding(rows: int, dim: int, padding_idx: int | None = None) -> nn.Embedding:
    embedding = nn.Embedding(rows, dim, padding_idx=padding_idx)
    nn.init.xavier_uniform_(embedding.weight)
    if padding_idx is not None:
        nn.init.zeros_(embedding.weight[padding_idx].detach())
    return embedding


def _gold_antecedents(document: CorefDocument, spans: Tensor, most: int) -> Tensor:
    """(M, 1 + K) bool: the kept spans before that are in the same cluster; column 0 where there is none."""
    cluster_of = {span: number for number, cluster in enumerate(document.clusters, start=1) for span in cluster}
    clusters = torch.tensor([cluster_of.get((first, last), 0) for first, last in spans.tolist()], device=spans.device)
    antecedents = torch.arange(len(spans), device=spans.device)[:, None] - torch.arange(
        1, most + 1, device=spans.device
    )
    same = (antecedents >= 0) & (clusters[antecedents.clamp(min=0)] == clusters[:, None]) & (clusters > 0)[:, None]
    return torch.cat([~same.any(1, keepdim=True), same], 1)


def joined(spans: Sequence[Span], back: Sequence[int]) -> Clusters:
    """Return the clusters of spans by position that each follow the span `back` places before, 0 for none."""
    cluster_of: dict[int, list[Span]] = {}
    for number, places in enumerate(back):
        cluster = cluster_of[number - places] if places else []
        cluster.append(spans[number])
        cluster_of[number] = cluster
    clusters = {id(cluster): tuple(cluster) for cluster in cluster_of.values() if len(cluster) > 1}
    return tuple(clusters.values())


def cut_document(document: CorefDocument, first: int, most: int) -> CorefDocument:
    """Return `most` sentences from number `first` on, with the mentions inside them renumbered."""
    sentences = document.sentences[first : first + most]
    begin = sum(map(len, document.sentences[:first]))
    end = begin + sum(map(len, sentences))
    clusters = (
        tuple((a - begin, b - begin) for a, b in cluster if begin <= a and b < end) for cluster in document.clusters
    )
    return dataclasses.replace(
        document,
        sentences=sentences,
        speakers=document.speakers[first : first + most],
        clusters=tuple(cluster for cluster in clusters if len(cluster) > 1),
    )
