"""The shared layers against slow, plain versions of themselves."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.tasks.networks.layers.attention import (
    BiAttention,
    SelfAttention,
    Trilinear,
    masked_max,
    masked_mean,
    masked_min,
    masked_softmax,
)
from pipeline.tasks.networks.layers.crf import Crf, Scheme, constraints, viterbi
from pipeline.tasks.networks.layers.dense import Maxout, VariationalDropout, sequence_cross_entropy
from pipeline.tasks.networks.layers.highway_lstm import AlternatingHighwayLstm, HighwayLstmLayer
from pipeline.tasks.networks.layers.recurrent import Bidirectional, block_orthogonal_, truncated_normal_
from pipeline.tasks.networks.layers.spans import (
    best_without_crossing,
    candidate_spans,
    distance_bins,
    span_attention,
    weighted_words,
)

BIOES = ("O", "B-PER", "I-PER", "E-PER", "S-PER", "S-LOC")
BIO = ("B-A0", "B-V", "I-A0", "I-V", "O")
LENGTHS = torch.tensor([4, 1, 3])
MASK = torch.arange(4) < LENGTHS[:, None]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(1)


# CRF and Viterbi


def follows_bioes(tags: tuple[str, ...]) -> bool:
    """Return whether each entity that starts also ends with the same type before anything else comes."""
    open_type = None
    for tag in tags:
        prefix, _, kind = tag.partition("-")
        if (prefix in ("I", "E")) != (open_type is not None) or (open_type and kind != open_type):
            return False
        open_type = kind if prefix in ("B", "I") else None
    return open_type is None


def follows_bio(tags: tuple[str, ...]) -> bool:
    before = ("O", *tags)
    return all(t[0] != "I" or (b[0] in "BI" and b[2:] == t[2:]) for b, t in itertools.pairwise(before))


def all_paths(count: int, length: int) -> list[tuple[int, ...]]:
    return list(itertools.product(range(count), repeat=length))


def path_score(emissions: Tensor, transitions: Tensor, path: tuple[int, ...]) -> float:
    moves = sum(float(transitions[a, b]) for a, b in itertools.pairwise(path))
    return sum(float(emissions[t, tag]) for t, tag in enumerate(path)) + moves


@pytest.mark.parametrize(("labels", "scheme"), [(BIOES, "bioes"), (BIO, "bio"), (BIO, "none")])
def test_viterbi_finds_the_best_allowed_path(labels: tuple[str, ...], scheme: Scheme) -> None:
    allowed = {"bioes": follows_bioes, "bio": follows_bio, "none": lambda tags: True}[scheme]
    transitions = torch.randn(len(labels), len(labels))
    for _ in range(10):
        emissions = 2 * torch.randn(3, 4, len(labels))
        found = viterbi(emissions, MASK, transitions, constraints(labels, scheme))
        for row, (path, length) in enumerate(zip(found, LENGTHS.tolist(), strict=True)):
            paths = [p for p in all_paths(len(labels), length) if allowed(tuple(labels[t] for t in p))]
            best = max(paths, key=lambda p: path_score(emissions[row], transitions, p))
            assert tuple(path) == best


def test_the_partition_function_sums_over_all_paths() -> None:
    crf, emissions = Crf(3), torch.randn(3, 4, 3)
    tags = torch.randint(3, (3, 4))
    partition, score = crf.log_partition(emissions, MASK), crf.score(emissions, tags, MASK)
    for row, length in enumerate(LENGTHS.tolist()):
        scores = [path_score(emissions[row], crf.transitions.detach(), path) for path in all_paths(3, length)]
        assert float(partition[row].detach()) == pytest.approx(np.logaddexp.reduce(scores), rel=1e-5)
        gold = path_score(emissions[row], crf.transitions.detach(), tuple(tags[row, :length].tolist()))
        assert float(score[row].detach()) == pytest.approx(gold, rel=1e-4)
    loss = crf.negative_log_likelihood(emissions, tags, MASK)
    assert float(loss.detach()) == pytest.approx(float((partition - score).sum().detach()), rel=1e-5)


# LSTMs


def numpy_highway(layer: HighwayLstmLayer, x: np.ndarray) -> np.ndarray:
    """Compute one sentence (T, D), one step and one gate at a time."""
    weight, bias = (p.detach().double().numpy() for p in layer.input_projection.parameters())
    state_weight = layer.state_projection.weight.detach().double().numpy()
    w, b, u = np.split(weight, 6), np.split(bias, 6), np.split(state_weight, 5)

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    c = h = np.zeros(layer.hidden)
    outputs = np.zeros((len(x), layer.hidden))
    for t in reversed(range(len(x))) if layer.backward else range(len(x)):
        i, f, o, r = (sigmoid(w[g] @ x[t] + b[g] + u[g] @ h) for g in range(4))
        j = np.tanh(w[4] @ x[t] + b[4] + u[4] @ h)
        c = f * c + i * j
        h = r * o * np.tanh(c) + (1 - r) * (w[5] @ x[t] + b[5])
        outputs[t] = h
    return outputs


def test_the_highway_lstm_agrees_with_a_slow_loop() -> None:
    stack = AlternatingHighwayLstm(5, 4, num_layers=3, dropout=0.3).eval()
    for parameter in stack.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(3, 4, 5)
    found = stack(x, LENGTHS).detach()
    for row, length in enumerate(LENGTHS.tolist()):
        expected = x[row, :length].double().numpy()
        for layer in stack.layers:
            assert isinstance(layer, HighwayLstmLayer)
            expected = numpy_highway(layer, expected)
        np.testing.assert_allclose(found[row, :length], expected, atol=1e-5)


def test_the_highway_lstm_starts_with_orthogonal_blocks_and_an_open_forget_gate() -> None:
    layer = HighwayLstmLayer(4, 4, 0.0, backward=False)
    for projection in (layer.input_projection, layer.state_projection):
        for block in projection.weight.detach().split(4):
            torch.testing.assert_close(block @ block.T, torch.eye(4))
    assert layer.input_projection.bias.tolist() == [0] * 4 + [1] * 4 + [0] * 16


def test_recurrent_dropout_has_one_mask_for_all_steps_and_does_not_drop_the_output() -> None:
    layer = HighwayLstmLayer(2, 500, dropout=0.4, backward=False)
    x = torch.randn(1, 1, 2)
    assert torch.equal(layer(x, torch.tensor([1])), layer.eval()(x, torch.tensor([1])))  # the first step has no state
    with torch.no_grad():  # h2 makes the dropped values of h visible in the gates of each step
        layer.train().state_projection.weight.zero_()
        layer.state_projection.weight[4 * 500 :] = torch.eye(500)
        layer.input_projection.weight.zero_()
        layer.input_projection.bias[5 * 500 :] = 1.0
        h = layer(torch.zeros(1, 3, 2), torch.tensor([3]))[0]
    dropped = [set((h[t] < 0.5 + 1e-6).nonzero().flatten().tolist()) for t in (1, 2)]
    assert 100 < len(dropped[0]) < 300
    assert dropped[0] == dropped[1]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_bidirectional_layers_give_each_sequence_the_same_result_alone(kind: str) -> None:
    layer = Bidirectional(kind, 3, 4, block_orthogonal_ if kind == "lstm" else truncated_normal_)  # type: ignore[arg-type]
    x = torch.randn(3, 4, 3)
    h = layer(x, LENGTHS)
    assert h[~MASK].abs().sum() == 0
    for row, length in enumerate(LENGTHS.tolist()):
        alone, _ = layer.rnn(x[row : row + 1, :length])
        torch.testing.assert_close(h[row, :length], alone[0])


def test_lstms_start_with_orthogonal_gates_and_an_open_forget_gate() -> None:
    rnn = Bidirectional("lstm", 3, 4, block_orthogonal_).rnn
    for block in rnn.weight_hh_l0_reverse.detach().split(4):
        torch.testing.assert_close(block @ block.T, torch.eye(4))
    assert rnn.bias_hh_l0.tolist() == [0] * 4 + [1] * 4 + [0] * 8
    assert not rnn.bias_ih_l0.any()


# Attention and pooling


def test_trilinear_similarity_is_the_sum_over_all_pairs() -> None:
    similarity, x, y = Trilinear(5), torch.randn(2, 3, 5), torch.randn(2, 4, 5)
    similarity.bias.data.fill_(0.7)
    w1, w2, w3 = (w.detach()[0] for w in (similarity.left, similarity.right, similarity.both))
    expected = [[[float(w1 @ a + w2 @ b + (w3 * a) @ b) + 0.7 for b in ys] for a in xs] for xs, ys in zip(x, y)]  # noqa: B905
    torch.testing.assert_close(similarity(x, y).detach(), torch.tensor(expected))


def test_bi_attention_equals_its_definition_on_one_text_without_padding() -> None:
    layer, x, q = BiAttention(5), torch.randn(1, 3, 5), torch.randn(1, 2, 5)
    everything = layer(x, torch.ones(1, 3, dtype=torch.bool), q, torch.ones(1, 2, dtype=torch.bool))[0]
    scores = layer.similarity(x, q)[0]
    attended = torch.softmax(scores, 1) @ q[0]
    context = torch.softmax(scores.max(1).values, 0) @ x[0]
    torch.testing.assert_close(everything, torch.cat([x[0], attended, x[0] * attended, x[0] * context], 1))


def test_self_attention_ignores_its_own_word_and_can_attend_to_nothing() -> None:
    layer, x = SelfAttention(5), torch.randn(1, 4, 5)
    mask = torch.tensor([[True, True, True, False]])
    found = layer(x, mask)[0]
    scores = layer.similarity(x, x)[0]
    for word in range(3):
        others = [w for w in range(3) if w != word]
        total = sum(scores[word, w].exp() for w in others) + layer.nothing.exp()
        torch.testing.assert_close(found[word], sum(scores[word, w].exp() / total * x[0, w] for w in others))
    assert float(layer.nothing.detach()) == -1
    alone = torch.tensor([[True, False, False, False]])
    assert not layer(x, alone)[0, 0].any()


def test_softmax_and_pooling_ignore_padding() -> None:
    x = torch.randn(3, 4, 2)
    changed = torch.where(MASK[..., None], x, torch.full_like(x, 1e6))
    for pool in (masked_mean, masked_max, masked_min):
        torch.testing.assert_close(pool(x, MASK), pool(changed.nan_to_num(), MASK))
        torch.testing.assert_close(pool(x, MASK)[1], x[1, 0])
    weights = masked_softmax(x[..., 0], MASK)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert not masked_softmax(x[..., 0], torch.zeros_like(MASK)).any()


def test_maxout_takes_the_maximum_of_the_pieces_of_each_output() -> None:
    layer, x = Maxout(5, (3, 2), (0.0, 0.0), pool=4), torch.randn(6, 5)
    found = layer(x)
    for linear, outputs in zip(layer.layers, (3, 2), strict=True):
        pieces = linear(x)
        x = torch.stack([pieces[:, 4 * k : 4 * k + 4].amax(1) for k in range(outputs)], 1)
    torch.testing.assert_close(found, x)


def test_variational_dropout_has_one_mask_for_each_sequence() -> None:
    dropout, x = VariationalDropout(0.5), torch.ones(3, 7, 100)
    dropped = dropout(x)
    assert torch.equal(dropped, dropped[:, :1].expand_as(x))
    assert not torch.equal(dropped[0], dropped[1])
    assert set(dropped.flatten().tolist()) == {0.0, 2.0}
    assert torch.equal(dropout.eval()(x), x)


def test_the_loss_of_tags_is_the_mean_of_sentence_means() -> None:
    logits, tags = torch.randn(3, 4, 5), torch.randint(5, (3, 4))
    means = [-torch.log_softmax(logits[b, :n], 1)[range(n), tags[b, :n]].mean() for b, n in enumerate(LENGTHS.tolist())]
    torch.testing.assert_close(sequence_cross_entropy(logits, tags, MASK), torch.stack(means).mean())


# Spans


def test_candidate_spans_are_all_short_spans_inside_sentences() -> None:
    sentence_of = [0, 0, 0, 1, 2, 2]
    expected = [
        (first, last)
        for first in range(6)
        for last in range(first, 6)
        if last - first < 2 and sentence_of[first] == sentence_of[last]
    ]
    assert [tuple(span) for span in candidate_spans([3, 1, 2], 2).tolist()] == expected


def test_the_vector_of_a_span_is_the_weighted_sum_of_its_words() -> None:
    spans, scores, x = candidate_spans([3, 4], 3), torch.randn(7), torch.randn(7, 5)
    sums = weighted_words(x, *span_attention(scores, spans, 3))
    for (first, last), found in zip(spans.tolist(), sums, strict=True):
        weights = torch.softmax(scores[first : last + 1], 0)
        torch.testing.assert_close(found, weights @ x[first : last + 1])


def crosses(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] < b[0] <= a[1] < b[1] or b[0] < a[0] <= b[1] < a[1]


def test_pruning_never_keeps_spans_that_cross() -> None:
    generator = np.random.default_rng(1)
    spans = [(a, b) for a, b in candidate_spans([12], 6).tolist()]
    for most in (3, 10, 1000):
        scores = generator.normal(size=len(spans)).tolist()
        expected: list[int] = []
        for number in sorted(range(len(spans)), key=lambda n: -scores[n]):
            if len(expected) < most and not any(crosses(spans[number], spans[other]) for other in expected):
                expected.append(number)
        kept = best_without_crossing(spans, scores, most)
        assert kept == sorted(expected, key=lambda n: spans[n])
        assert not any(crosses(spans[a], spans[b]) for a, b in itertools.combinations(kept, 2))


def test_distances_have_ten_bins() -> None:
    distances = [0, 1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 63, 64, 500]
    assert distance_bins(torch.tensor(distances)).tolist() == [0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9]
