"""The metrics against cases of the official scorers and against slow implementations that work differently."""

import itertools
import random
from collections.abc import Hashable, Sequence
from fractions import Fraction

import pytest

from pipeline.tasks.metrics.answers import AnswerScores
from pipeline.tasks.metrics.coreference import CorefScores
from pipeline.tasks.metrics.counts import Accuracy
from pipeline.tasks.metrics.spans import EntityF1, RoleF1, roles_of, spans_of

Clusters = Sequence[Sequence[Hashable]]


def scores(metric: EntityF1 | RoleF1, *pairs: tuple[str, str]) -> tuple[float, float, float]:
    for gold, predicted in pairs:
        metric.update(gold.split(), predicted.split())
    result = metric.result()
    return result["precision"], result["recall"], result["f1"]


# conlleval.pl prints for these columns: 5 phrases, found 5, correct 2.
CONLLEVAL = [
    ("B-PER I-PER O B-LOC B-LOC O", "B-PER I-PER I-LOC I-LOC B-LOC O"),
    ("I-ORG I-ORG I-PER O", "B-ORG I-ORG I-ORG B-MISC"),
]


def test_entities_are_counted_as_in_conlleval() -> None:
    metric = EntityF1()
    assert scores(metric, *CONLLEVAL) == pytest.approx((40, 40, 40))
    of_types = {name: value for name, value in metric.result().items() if "/" in name}
    assert of_types == pytest.approx({"f1/LOC": 50, "f1/MISC": 0, "f1/ORG": 0, "f1/PER": 200 / 3})


def conlleval_counts(gold: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    """Count right, gold and predicted chunks by conlleval's own rules (conlleval.pl, B, I and O only), word by word."""
    sides = [[[*tag.split("-"), ""] for tag in [*tags, "O"]] for tags in (gold, predicted)]
    starts: list[list[bool]] = []
    ends: list[list[bool]] = []
    for tags in sides:
        before = ["O", ""]
        starts.append([])
        ends.append([])
        for tag, kind, *_ in tags:
            changed = before[1] != kind
            starts[-1].append(tag == "B" or (tag == "I" and (before[0] == "O" or changed)))
            ends[-1].append(before[0] != "O" and (tag in ("B", "O") or changed))
            before = [tag, kind]
    right, in_both = 0, False
    for index in range(len(gold) + 1):
        if in_both and ends[0][index] and ends[1][index]:
            right, in_both = right + 1, False
        elif in_both and ends[0][index] != ends[1][index]:
            in_both = False
        if starts[0][index] and starts[1][index]:
            in_both = sides[0][index][1] == sides[1][index][1]
    return right, sum(starts[0]), sum(starts[1])


def test_entities_equal_a_port_of_conlleval_on_random_tags() -> None:
    draw = random.Random(1)
    tags = ["O", "O", "B-X", "I-X", "B-Y", "I-Y"]
    metric, sums = EntityF1(), [0, 0, 0]
    for _ in range(400):
        gold = [draw.choice(tags) for _ in range(9)]
        predicted = [tag if draw.random() < 0.7 else draw.choice(tags) for tag in gold]
        sums = [a + b for a, b in zip(sums, conlleval_counts(gold, predicted), strict=True)]
        metric.update(gold, predicted)
    right, of_gold, of_predicted = sums
    assert metric.result()["f1"] == pytest.approx(200 * right / (of_gold + of_predicted))


@pytest.mark.parametrize(
    ("tags", "same"),
    [
        ("B-X E-X S-X S-Y O B-Y I-Y E-Y", "B-X I-X B-X B-Y O B-Y I-Y I-Y"),
        ("S-X I-X E-X I-X", "B-X B-X I-X B-X"),  # a tag after an end starts another entity
    ],
)
def test_entities_in_bioes_equal_those_in_iob2(tags: str, same: str) -> None:
    assert spans_of(tags.split()) == spans_of(same.split())


# srl-eval.pl prints for these propositions: corr. 3, excess 2, missed 2.
SRL_EVAL = [
    ("B-A0 B-V B-A1 I-A1 O B-C-A1 B-AM-TMP", "B-A0 B-V B-A1 I-A1 B-AM-TMP B-C-A1 O"),
    ("B-V B-C-V B-A1 B-R-A1", "B-V O B-C-A1 B-A1"),
]


def test_roles_are_counted_as_in_srl_eval() -> None:
    metric = RoleF1()
    assert scores(metric, *SRL_EVAL) == pytest.approx((60, 60, 60))
    found = metric.result()
    assert (found["f1/A0"], found["f1/A1"], found["f1/AM-TMP"], found["f1/R-A1"]) == pytest.approx((100, 80, 0, 0))
    assert not any(name.endswith("/V") for name in found)


def test_an_argument_of_several_pieces_is_right_only_as_a_whole() -> None:
    tags = "B-A1 O B-C-A1 I-C-A1 O B-C-A1 B-V"
    assert roles_of(tags.split()) == [("A1", ((0, 0), (2, 3), (5, 5)))]
    assert scores(RoleF1(), (tags, "B-A1 O B-C-A1 I-C-A1 O O B-V")) == (0, 0, 0)
    assert scores(RoleF1(), (tags, tags)) == pytest.approx((100, 100, 100))


def test_roles_equal_a_slow_count_of_word_sets() -> None:
    draw = random.Random(2)

    def words_of(tags: list[str]) -> list[tuple[str, frozenset[int]]]:
        found: list[tuple[str, set[int]]] = []
        for index, tag in enumerate(tags):
            prefix, _, role = tag.partition("-")
            name = role.removeprefix("C-")
            same = [words for other, words in found if other == name]
            if prefix == "I" or (role != name and same):
                same[-1].add(index)
            elif tag != "O":
                found.append((name, {index}))
        return [(name, frozenset(words)) for name, words in found if name != "V"]

    metric, right, total = RoleF1(), 0, 0
    for _ in range(400):
        gold, predicted = (_random_roles(draw) for _ in range(2))
        predicted = predicted if draw.random() < 0.7 else list(gold)
        metric.update(gold, predicted)
        left = words_of(predicted)
        total += len(left)
        for argument in words_of(gold):
            total += 1
            if argument in left:
                left.remove(argument)
                right += 1
    assert metric.result()["f1"] == pytest.approx(200 * right / total)


def _random_roles(draw: random.Random) -> list[str]:
    tags: list[str] = []
    while len(tags) < 8:
        role = draw.choice(["O", "O", "A", "C-A", "B", "C-B", "V"])
        tags += ["O"] if role == "O" else [f"B-{role}", *[f"I-{role}"] * draw.randint(0, 2)]
    return tags[:8]


# Cases of the CoNLL-2012 scorer (test/CorefMetricTestConfig.pm and TestCases.README of
# conll/reference-coreference-scorers). A letter is a mention, a space separates clusters. (muc, b_cubed, ceaf_e) are
# recall and precision; None where the file gives no figure.
SCORER_CASES = {
    "A1": ("a bc def", "a bc def", (1, 1), (1, 1), (1, 1)),
    "A2": ("a bc def", "a de", (1 / 3, 1), (7 / 18, 1), (0.6, 0.9)),
    "A3": ("a bc def", "a bcx defy z", (1, 3 / 5), (1, 55 / 108), (0.88571, 0.66429)),
    "A4": ("a bc def", "a bcx dy z", (1 / 3, 1 / 3), (5 / 9, 17 / 42), (0.73333, 0.55)),
    "A5": ("a bc def", "a bcxB dy z", (1 / 3, 1 / 4), (5 / 9, 5 / 16), (0.68889, 0.51667)),
    "A6": ("a bc def", "a bcx dy Bz", (1 / 3, 1 / 4), (5 / 9, 17 / 48), (0.73333, 0.55)),
    "A7, a mention twice": ("a bc def", "a bcxb dy z", (1 / 3, 1 / 3), (5 / 9, 17 / 42), (0.73333, 0.55)),
    "A8, a mention twice": ("a bc def", "a bcx dy bz", (1 / 3, 1 / 3), (5 / 9, 17 / 42), (0.73333, 0.55)),
    "A10": ("a bc def", "a b c d e f", (0, 0), (1 / 2, 1), None),
    "A11": ("a bc def", "abcdef", (1, 3 / 5), (1, 7 / 18), None),
    "A12": ("a bc def", "a x y c d e z", (0, 0), (13 / 36, 4 / 7), None),
    "A13": ("a bc def", "axycdez", (1 / 3, 1 / 6), (17 / 36, 6 / 49), None),
    "D1": ("12345 67 89ABC", "12345 6789ABC", (1, 9 / 10), (1, 16 / 21), None),
    "E1": ("12345 67 89ABC", "1234589ABC 67", (1, 9 / 10), (1, 7 / 12), None),
}


@pytest.mark.parametrize("case", SCORER_CASES)
def test_coreference_scores_equal_those_of_the_cases_of_the_official_scorer(case: str) -> None:
    key, response, *expected = SCORER_CASES[case]
    metric = CorefScores()
    metric.update([*map(list, key.split())], [*map(list, response.split())])
    found = metric.result()
    for name, figures in zip(("muc", "b_cubed", "ceaf_e"), expected, strict=True):
        if figures is not None:
            wanted = tuple(100 * figure for figure in figures)
            assert (found[f"{name}/recall"], found[f"{name}/precision"]) == pytest.approx(wanted, abs=1e-3)


def test_a_gold_mention_in_two_clusters_is_counted_as_in_the_official_scorer() -> None:
    """scorer.pl v8.01 prints these figures for these clusters."""
    metric = CorefScores()
    metric.update([list("abc"), list("cde")], [list("abc"), list("de")])
    found = metric.result()
    figures = [found[f"{name}/{part}"] for name in ("muc", "b_cubed", "ceaf_e") for part in ("recall", "precision")]
    assert figures == pytest.approx([50, 66.66, 61.11, 86.66, 90, 90], abs=0.01)


def slow_counts(gold: Clusters, predicted: Clusters) -> dict[str, tuple[Fraction, Fraction, Fraction]]:
    """Compute the numerators of recall and precision differently: by link graphs, all pairs and all alignments."""
    sides: list[list[set[Hashable]]] = [[set(cluster) for cluster in side] for side in (gold, predicted)]

    def pieces(cluster: set[Hashable], others: list[set[Hashable]]) -> int:
        left, count = set(cluster), 0
        while left:
            mention = next(iter(left))
            left -= next((other for other in others if mention in other), {mention})
            count += 1
        return count

    def b_cubed(a: list[set[Hashable]], b: list[set[Hashable]]) -> Fraction:
        return sum(
            (Fraction(len(x & y), len(x)) for x in a for m in x for y in b if m in y), Fraction(0)
        )  # fmt: skip

    def best(a: list[set[Hashable]], b: list[set[Hashable]]) -> Fraction:
        few, many = sorted((a, b), key=len)
        totals = (
            sum((Fraction(2 * len(x & y), len(x) + len(y)) for x, y in zip(few, chosen, strict=True)), Fraction(0))
            for chosen in itertools.permutations(many, len(few))
        )
        return max(totals, default=Fraction(0))

    g, p = sides
    return {
        "muc": tuple(Fraction(sum(len(c) - pieces(c, b) for c in a)) for a, b in ((g, p), (p, g))),  # type: ignore[dict-item]
        "b_cubed": (b_cubed(g, p), b_cubed(p, g)),
        "ceaf_e": (best(g, p), best(g, p)),
    }  # type: ignore[return-value]


def test_coreference_scores_equal_those_of_a_slow_implementation_over_documents() -> None:
    draw = random.Random(3)
    metric = CorefScores()
    sums = {name: [Fraction(0)] * 4 for name in ("muc", "b_cubed", "ceaf_e")}
    for _ in range(60):
        gold, predicted = (_random_clusters(draw) for _ in range(2))
        metric.update(gold, predicted)
        sizes = {
            "muc": [sum(len(c) - 1 for c in side) for side in (gold, predicted)],
            "b_cubed": [sum(map(len, side)) for side in (gold, predicted)],
            "ceaf_e": [len(gold), len(predicted)],
        }
        for name, numerators in slow_counts(gold, predicted).items():
            new = [*numerators, *sizes[name]]
            sums[name] = [a + b for a, b in zip(sums[name], new, strict=True)]
    found, f1s = metric.result(), []
    for name, (recall, precision, of_gold, of_predicted) in sums.items():
        r, p = float(100 * recall / of_gold), float(100 * precision / of_predicted)
        assert (found[f"{name}/recall"], found[f"{name}/precision"]) == pytest.approx((r, p))
        f1s.append(2 * r * p / (r + p))
    assert found["f1"] == pytest.approx(sum(f1s) / 3)


def _random_clusters(draw: random.Random) -> list[list[int]]:
    clusters: list[list[int]] = [[] for _ in range(4)]
    for mention in range(9):
        if draw.random() < 0.8:
            draw.choice(clusters).append(mention)
    return [cluster for cluster in clusters if cluster]


def test_metrics_without_any_example_are_zero() -> None:
    metrics = [CorefScores(), EntityF1(), RoleF1(), AnswerScores(), Accuracy()]
    assert not any(value for metric in metrics for value in metric.result().values())
    coref = CorefScores()
    coref.update([], [])
    coref.update([[1, 2]], [])
    assert coref.result()["f1"] == 0


@pytest.mark.parametrize(
    ("gold", "predicted", "exact", "f1"),
    [
        (["October 1973"], "the october, 1973!", 100, 100),
        (["1973", "October 1973"], "in October 1973", 0, 80),
        (["a a b"], "a b b", 0, 200 / 3),  # a is an article
        (["c c d"], "c d d", 0, 200 / 3),
        (["OPEC"], "", 0, 0),
        (["The"], "an", 100, 0),  # as in version 1.1: without a common word F1 is 0, even if both are empty
        (["U.S."], "us", 100, 100),
        (["a-b"], "ab", 100, 100),
    ],
)
def test_answers_are_scored_as_in_the_script_of_squad(gold: list[str], predicted: str, exact: float, f1: float) -> None:
    metric = AnswerScores()
    metric.update(gold, predicted)
    assert metric.result() == pytest.approx({"exact_match": exact, "f1": f1})


def test_answer_scores_equal_those_of_torchmetrics_on_random_text() -> None:
    from torchmetrics.text import SQuAD

    draw = random.Random(4)
    words = ["the", "a", "Oil", "oil,", "crisis", "1973", "of", "OPEC's", "(U.S.)", "embargo."]
    ours, theirs = AnswerScores(), SQuAD()
    for number in range(200):
        texts = [" ".join([*draw.choices(words, k=draw.randint(0, 4)), draw.choice(words[2:])]) for _ in range(4)]
        ours.update(texts[1:], texts[0])
        answers = {"text": texts[1:], "answer_start": [0] * 3}
        theirs.update([{"id": str(number), "prediction_text": texts[0]}], [{"id": str(number), "answers": answers}])
    expected = {name: float(value) for name, value in theirs.compute().items()}
    assert ours.result() == pytest.approx(expected, rel=1e-5)


def test_accuracy_counts_items_over_all_updates() -> None:
    metric = Accuracy()
    metric.update(["NN", "VB", "DT"], ["NN", "NN", "DT"])
    metric.update(["NN"], ["NN"])
    assert metric.result() == {"accuracy": 75}
