"""Coreference and question answering: scores in parts against the whole, pruning, decoding, gold answers."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.task_networks import CoreferenceConfig, ElmoConfig
from pipeline.tasks.examples.types import CorefDocument
from pipeline.tasks.networks.coreference import Coreference, Kept, cut_document, joined
from pipeline.tasks.networks.layers.spans import candidate_spans, span_attention
from pipeline.tasks.networks.question_answering import best_span
from pipeline.tasks.networks.tagger import Tagger
from tests.tasks.networks.made_up import TASKS, layers_of

COREF, QUESTIONS = TASKS["coreference"], TASKS["question_answering"]


def coreference(**changes: object) -> tuple[Any, Any, list[CorefDocument]]:
    documents = COREF.examples(4, seed=5)
    task = dataclasses.replace(COREF, config=dataclasses.replace(COREF.config, **changes))
    return *task.network(documents, ElmoConfig("input", dropout=0.0)), documents


# Coreference


def test_mention_scores_in_parts_equal_those_of_whole_span_vectors() -> None:
    network, _, _ = coreference()
    network.eval()
    x, y = torch.randn(9, network.span_parts[3]), torch.randn(9, network.span_parts[0])
    spans = candidate_spans([4, 5], 3)
    places, weights = span_attention(network.head(y)[:, 0], spans, 3)
    width = network.width(spans[:, 1] - spans[:, 0])
    found = network._mention_scores(x, y, spans, width, places, weights)
    for number, (first, last) in enumerate(spans.tolist()):
        attention = torch.softmax(network.head(y[first : last + 1])[:, 0], 0)
        vector = torch.cat([y[first], y[last], network.width.weight[last - first], attention @ x[first : last + 1]])
        torch.testing.assert_close(found[number], network.mention(vector)[0])


@pytest.mark.parametrize("pairs_at_once", [1, 4, 1000])
def test_antecedent_scores_in_parts_equal_those_of_whole_pair_vectors(pairs_at_once: int) -> None:
    network, _, _ = coreference(pairs_at_once=pairs_at_once, max_antecedents=3)
    network.eval()
    spans = torch.tensor([[0, 0], [2, 3], [4, 4], [5, 6], [7, 7]])
    kept = Kept(spans, torch.randn(5, network.span_dim), torch.randn(5))
    speakers, genre = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0, 0]), torch.tensor(1)
    table = network._antecedent_scores(kept, speakers, genre)
    assert table.shape == (5, 4) and not table[:, 0].any()
    for i, back in itertools.product(range(5), (1, 2, 3)):
        j = i - back
        if j < 0:
            assert table[i, back] == -torch.inf
            continue
        same = int(speakers[spans[i, 0]] == speakers[spans[j, 0]])
        phi = [network.speaker.weight[same], network.genre.weight[1], network.distance.weight[back]]
        g_i, g_j = kept.vectors[i], kept.vectors[j]
        expected = network.pair(torch.cat([g_i, g_j, g_i * g_j, *phi]))[0] + kept.scores[i] + kept.scores[j]
        torch.testing.assert_close(table[i, back], expected)


def test_scoring_pairs_in_parts_changes_neither_loss_nor_gradients() -> None:
    found = []
    for pairs_at_once in (3, 1 << 14):
        network, tables, documents = coreference(pairs_at_once=pairs_at_once, dropout=0.0)
        torch.manual_seed(1)
        loss = network.loss(Coreference.make_batch(documents, tables).with_elmo(layers_of))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in network.parameters())])
    for few, many in zip(*found, strict=True):
        torch.testing.assert_close(few, many)


def test_the_loss_is_the_probability_of_all_gold_antecedents() -> None:
    network, tables, documents = coreference(spans_per_word=10.0, max_antecedents=1000)
    network.eval()
    batch = Coreference.make_batch(documents[:1], tables).with_elmo(layers_of)
    ((document, kept, table),) = network._ranked(batch)
    spans = [tuple(span) for span in kept.spans.tolist()]
    total = 0.0
    for i, span in enumerate(spans):
        cluster = next((c for c in document.clusters if span in c), ())
        gold = [i - j for j in range(i) if spans[j] in cluster] or [0]
        total -= float(torch.softmax(table[i].detach(), 0)[gold].sum().log())
    assert float(network.loss(batch).detach()) == pytest.approx(total, rel=1e-4)


def test_kept_spans_are_few_in_order_and_do_not_cross() -> None:
    network, tables, documents = coreference(spans_per_word=0.4)
    for _, kept, table in network._ranked(Coreference.make_batch(documents, tables).with_elmo(layers_of)):
        spans = [tuple(span) for span in kept.spans.tolist()]
        assert spans == sorted(spans) and len(spans) == int(0.4 * 18) == len(table)
        assert not any(a[0] < b[0] <= a[1] < b[1] for a, b in itertools.combinations(spans, 2))


def test_a_document_of_one_word_gives_every_parameter_a_gradient() -> None:
    """DDP needs a gradient for each parameter in every step, even if there is no pair."""
    network, tables, _ = coreference()
    document = CorefDocument("one", "news", (("Ann",),), (("x",),), ())
    network.loss(Coreference.make_batch([document], tables).with_elmo(layers_of)).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert network.predict(Coreference.make_batch([document], tables).with_elmo(layers_of)) == [()]


def test_speakers_and_genres_are_left_out_if_the_data_has_none() -> None:
    network, _, _ = coreference(speakers=False)
    assert network.phi_dim == 16
    documents = [dataclasses.replace(document, genre="") for document in COREF.examples(4, seed=5)]
    assert Coreference.labels_of(documents) == ()
    network, tables = COREF.network(documents, ElmoConfig("none"))
    assert (network.genre, network.phi_dim) == (None, 16)
    network.loss(Coreference.make_batch(documents, tables)).backward()


def test_links_are_joined_to_clusters_and_single_spans_are_dropped() -> None:
    spans = [(0, 0), (1, 2), (3, 3), (4, 4), (5, 5), (6, 6)]
    assert joined(spans, [0, 0, 0, 3, 1, 4]) == (((0, 0), (4, 4), (5, 5)), ((1, 2), (6, 6)))


def test_a_cut_document_keeps_the_mentions_inside_it() -> None:
    document = CorefDocument(
        "d", "news", (("a", "b"), ("c", "d"), ("e",)), (("x", "x"), ("y", "y"), ("z",)),
        (((0, 0), (2, 3), (4, 4)), ((1, 1), (3, 3))),
    )  # fmt: skip
    cut = cut_document(document, 1, 2)
    assert cut.sentences == (("c", "d"), ("e",)) and cut.speakers == (("y", "y"), ("z",))
    assert cut.clusters == (((0, 1), (2, 2)),)
    assert cut_document(document, 0, 50) == document
    chance, short = np.random.default_rng(0), CoreferenceConfig(max_sentences=2)
    stretches = {Coreference.cut(document, short, chance).sentences for _ in range(20)}
    assert stretches == {document.sentences[:2], document.sentences[1:]}
    assert Coreference.cut(document, CoreferenceConfig(max_sentences=3), chance) == document


# Question answering


def test_the_best_span_equals_that_of_brute_force() -> None:
    generator = torch.Generator().manual_seed(1)
    for length in (1, 2, 9):
        start, end = torch.randn(2, length, generator=generator)
        allowed = [(i, j) for i in range(length) for j in range(i, min(i + 4, length))]
        assert best_span(start, end, 4) == max(allowed, key=lambda span: float(start[span[0]] + end[span[1]]))


def test_one_gold_span_is_drawn_at_random_in_training() -> None:
    example = dataclasses.replace(QUESTIONS.examples(1, seed=1)[0], spans=((1, 2), (3, 3)))
    network, tables = QUESTIONS.network([example], ElmoConfig("none"))
    batch = network.make_batch([example], tables)
    network.eval()
    start, end = (torch.log_softmax(logits[0].detach(), 0) for logits in network.scores(batch))
    each = [-float(start[first] + end[last]) for first, last in example.spans]
    assert float(network.loss(batch).detach()) == pytest.approx(each[0], rel=1e-5)
    for module in network.modules():
        module.training = module is network  # choose as in training, but without dropout
    drawn = {round(float(network.loss(batch).detach()), 4) for _ in range(30)}
    assert drawn == {round(loss, 4) for loss in each}


def test_with_loss_all_every_gold_span_counts_and_questions_without_one_do_not() -> None:
    task = dataclasses.replace(QUESTIONS, config=dataclasses.replace(QUESTIONS.config, loss="all"))
    first, second = task.examples(2, seed=1)
    first, second = dataclasses.replace(first, spans=((1, 2), (1, 3), (3, 3))), dataclasses.replace(second, spans=())
    network, tables = task.network([first, second], ElmoConfig("none"))
    network.eval()
    start, end = (torch.softmax(s[0].detach(), 0) for s in network.scores(network.make_batch([first], tables)))
    expected = -np.log(float(start[[1, 3]].sum())) - np.log(float(end[[2, 3]].sum()))
    for examples in ([first], [first, second]):
        assert float(network.loss(network.make_batch(examples, tables)).detach()) == pytest.approx(expected, rel=1e-4)
    assert float(network.loss(network.make_batch([second], tables)).detach()) == 0


# Tags


def test_entity_labels_hold_all_four_prefixes_of_a_type() -> None:
    sentences = TASKS["ner"].examples(1, seed=1)
    assert set(Tagger.labels_of(sentences)) == {"O", "B-N", "I-N", "E-N", "S-N"}


@pytest.mark.parametrize("name", ["ner", "srl"])
def test_an_untrained_network_predicts_well_formed_tags(name: str) -> None:
    task = TASKS[name]
    examples = task.examples(30, seed=1)
    network, tables = task.network(examples, ElmoConfig("none"))
    with torch.no_grad():
        network.projection.weight *= 30
    for tags in network.eval().predict(task.kind.make_batch(examples, tables)):
        for before, tag in itertools.pairwise(("O", *tags, "O")):
            inside = before[0] in "BI" and before != "B-V"
            if tag[0] in "IE":
                assert before[0] in "BI" and before[2:] == tag[2:]
            elif name == "ner":
                assert not inside
