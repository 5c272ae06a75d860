"""SQuAD, SNLI and sentiment trees: what is read, what is written, and what is refused."""

import json
from functools import partial
from pathlib import Path

import pytest

from pipeline.tasks.examples.questions import read_questions, write_answers, write_questions
from pipeline.tasks.examples.raw_text import OffsetTokenizer
from pipeline.tasks.examples.sentence_pairs import read_sentence_pairs, write_sentence_pairs
from pipeline.tasks.examples.sentiment_trees import read_sentiment_trees, write_sentiment_trees
from pipeline.tasks.examples.types import LabelledSentence, SentencePair
from tests.tasks.excerpts import CONTEXT, CRISIS, PAIRS, TREES, TSV, squad
from tests.tasks.files import DATA, needs_shared, refused, write

JSON_PAIRS = "".join(
    json.dumps({"gold_label": a, "sentence1": b, "sentence2": c, "pairID": "7"}) + "\n" for a, b, c in PAIRS
)


def test_answers_are_aligned_to_the_tokens_that_hold_them(tmp_path: Path) -> None:
    (found,) = read_questions(write(tmp_path / "a", squad(CRISIS)))
    assert found.question == ("When", "did", "the", "1973", "oil", "crisis", "begin", "?")
    assert found.context_text == CONTEXT and found.answers == ("October 1973", "1973")
    assert [found.text_of(span) for span in found.spans] == ["October 1973", "1973"]
    assert [found.context[a : b + 1] for a, b in found.spans] == [("October", "1973"), ("1973",)]
    assert all(CONTEXT[a:b] == word for word, (a, b) in zip(found.context, found.offsets, strict=True))
    assert found.texts() == (found.context, found.question)


@pytest.mark.parametrize(("answer", "start", "tokens"), [("1974", 9, "1973–1974"), ("ctober 19", 35, "October 1973")])
def test_an_answer_inside_a_token_gets_the_whole_token(tmp_path: Path, answer: str, start: int, tokens: str) -> None:
    question = CRISIS | {"answers": [{"text": answer, "answer_start": start}]}
    (found,) = read_questions(write(tmp_path / "a", squad(question)))
    assert found.text_of(found.spans[0]) == tokens and found.answers == (answer,)


def test_predicted_answers_are_written_in_both_formats_of_squad(tmp_path: Path) -> None:
    source = write(tmp_path / "a", squad(CRISIS))
    answers = {CRISIS["id"]: ("OPEC", CONTEXT.index("OPEC"))}
    write_questions(source, tmp_path / "b", answers)
    write_answers(tmp_path / "c", answers)
    (back,) = read_questions(tmp_path / "b")
    assert back.answers == ("OPEC",) and back.text_of(back.spans[0]) == "OPEC"
    assert json.loads((tmp_path / "b").read_text())["version"] == "1.1"
    assert json.loads((tmp_path / "c").read_text()) == {CRISIS["id"]: "OPEC"}


def test_questions_without_answers_can_be_read_for_prediction(tmp_path: Path) -> None:
    path = write(tmp_path / "a", squad({"id": "1", "question": "When?"}))
    (found,) = read_questions(path, labelled=False)
    assert (found.answers, found.spans) == ((), ())


def test_offsets_give_the_places_of_words_in_the_text() -> None:
    text = " “Mr. Smith’s\u00a0dog”,\n\tshe didn't  say — 3/4 of (U.S.) 's, naïve😀 people…"
    words, offsets = OffsetTokenizer().words_and_offsets(text)
    assert [text[a:b] for a, b in offsets] == list(words)
    assert "".join(words) == "".join(text.split())


@pytest.mark.parametrize("text", [TSV, JSON_PAIRS], ids=["tsv", "json"])
def test_pairs_are_tokenised_and_pairs_without_a_label_are_left_out(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    found = read_sentence_pairs(write(tmp_path / "a", text))
    assert [pair.label for pair in found] == ["entailment", "neutral"]
    assert found[1].premise == ("Two", "women", "are", "n't", "embracing", ".")
    assert found[0].hypothesis == ("a", "child", "staring", "someone")
    assert found[0].texts() == (found[0].premise, found[0].hypothesis)
    assert "left out 1 pairs labelled -" in caplog.text
    assert len(read_sentence_pairs(tmp_path / "a", labelled=False)) == 3


@pytest.mark.parametrize("text", [TSV, JSON_PAIRS, TSV.replace("gold_label", "other")], ids=["tsv", "json", "bare"])
def test_predicted_labels_are_written_in_the_format_of_the_source(tmp_path: Path, text: str) -> None:
    source = write(tmp_path / "a", text)
    write_sentence_pairs(source, tmp_path / "b", ["neutral", "entailment", "contradiction"])
    assert [pair.label for pair in read_sentence_pairs(tmp_path / "b")] == ["neutral", "entailment", "contradiction"]
    assert ("pairID" in text) == ("pairID" in (tmp_path / "b").read_text())


def test_trees_are_read_as_sentences_or_as_all_phrases(tmp_path: Path) -> None:
    path = write(tmp_path / "a", TREES)
    assert read_sentiment_trees(path) == [
        LabelledSentence(("It", "'s", "good", "("), "3"), LabelledSentence(("No", "one"), "1")
    ]  # fmt: skip
    phrases = [(" ".join(node.words), node.label) for node in read_sentiment_trees(path, phrases=True)]
    assert phrases == [
        ("It 's good (", "3"), ("It", "2"), ("'s good (", "4"), ("'s good", "4"), ("'s", "2"), ("good", "3"),
        ("(", "2"), ("No one", "1"), ("No", "2"), ("one", "0"),
    ]  # fmt: skip


def test_predicted_classes_are_written_at_the_root(tmp_path: Path) -> None:
    source = write(tmp_path / "a", TREES)
    write_sentiment_trees(write(tmp_path / "close", "(3(2 It)(4 good))\n"), tmp_path / "c", ["0"])
    assert (tmp_path / "c").read_text() == "(0(2 It)(4 good))\n"
    write_sentiment_trees(source, tmp_path / "b", ["0", "4"])
    assert [sentence.label for sentence in read_sentiment_trees(tmp_path / "b")] == ["0", "4"]
    assert (tmp_path / "b").read_text().startswith("(0 (2 It) (4 (4 (2 's)")


def answered(text: str, start: int) -> str:
    return squad(CRISIS | {"answers": [{"text": text, "answer_start": start}]})


BROKEN_QUESTIONS = {
    "no JSON": ("{\n", "line 2"),
    "another format": ("a\tO\n", "line 1"),
    "a list": ("[]", "SQuAD 1.1"),
    "no data": ("{}", "data"),
    "no question": (squad({"id": "1"}), "question"),
    "an answer elsewhere": (answered("OPEC", 3), "question 5725", "'OPEC'", f"correct it to {CONTEXT.index('OPEC')}"),
    "an answer out of range": (answered("OPEC", 10**6), "answer_start 1000000"),
    "an answer before the beginning": (answered("OPEC", -3), "answer_start -3"),
    "an answer that the context lacks": (answered("Tokyo", 3), "the paragraph does not hold it"),
    "an empty answer": (answered(" ", 3), "empty answer"),
    "no answer": (squad(CRISIS | {"answers": []}), "has no answer", "SQuAD 2.0"),
    "an empty context": (squad(CRISIS, context=" "), "has no words"),
    "no questions": (json.dumps({"data": []}), "holds no example"),
    "one id for two": (
        json.dumps({"data": [{"paragraphs": [{"context": "a b", "qas": [
            {"id": "1", "question": q, "answers": [{"text": "a", "answer_start": 0}]} for q in "xy"
        ]}]}]}), "two questions have the id '1'",
    ),
}  # fmt: skip
BROKEN_PAIRS = {
    "no JSON": ("{\n", "line 1"),
    "no sentence": ('{"sentence1": "a"}\n', "line 1", "sentence2"),
    "no header": (TSV.partition("\n")[2], "line 1", "no header with sentence1 and sentence2"),
    "unequal columns": (TSV + "neutral\ta\n", "line 5", "2 columns, but the header has 3"),
    "an unknown label": (TSV.replace("entailment", "entails"), "line 2", "'entails'", "contradiction"),
    "an empty sentence": (TSV + "neutral\t\tb\n", "line 5", "an empty sentence"),
    "no label in JSON": ('{"sentence1": "a", "sentence2": "b"}\n', "line 1", "the label ''"),
    "a number for a sentence": ('{"sentence1": 1, "sentence2": "b", "gold_label": "-"}\n', "line 1", "sentence1"),
    "a header only": ("gold_label\tsentence1\tsentence2\n", "holds no example"),
    "undecided pairs only": ("gold_label\tsentence1\tsentence2\n-\ta\tb\n", "holds no example"),
}
BROKEN_TREES = {
    "brackets not closed": ("(3 (2 It) (4 good)\n", "line 1", "1 brackets that are not closed"),
    "a bracket too many": ("(3 (2 It) (4 good)))\n", "line 1", "more than one tree"),
    "two trees": ("(3 It) (4 good)\n", "line 1", "more than one tree"),
    "no bracket": (TREES + "It 's good\n", "line 3", "more than one tree, or none"),
    "an unknown label": ("(7 It)\n", "line 1", "'7'", "0, 1, 2, 3, 4"),
    "another treebank": ("(S (NP It) (VP works))\n", "line 1", "the label 'S'"),
    "a node without label": ("(3 (2 It) ((4 's) (4 good)))\n", "line 1", "without a label"),
    "a node without words": ("(3 (2) (4 good))\n", "line 1", "without words"),
    "an empty tree": ("()\n", "line 1"),
    "another format": ("a\tO\n", "line 1", "more than one tree, or none"),
}


@pytest.mark.parametrize("kind", BROKEN_QUESTIONS)
def test_broken_questions_are_refused(tmp_path: Path, kind: str) -> None:
    text, *parts = BROKEN_QUESTIONS[kind]
    refused(read_questions, tmp_path / "a", text, *parts)


@pytest.mark.parametrize("kind", BROKEN_PAIRS)
def test_broken_pairs_are_refused_with_file_and_line(tmp_path: Path, kind: str) -> None:
    text, *parts = BROKEN_PAIRS[kind]
    refused(read_sentence_pairs, tmp_path / "a", text, *parts)


@pytest.mark.parametrize("kind", BROKEN_TREES)
def test_broken_trees_are_refused_with_file_and_line(tmp_path: Path, kind: str) -> None:
    text, *parts = BROKEN_TREES[kind]
    refused(partial(read_sentiment_trees, phrases=True), tmp_path / "a", text, *parts)


def test_a_deep_tree_is_read_without_recursion(tmp_path: Path) -> None:
    depth = 100_000
    (found,) = read_sentiment_trees(write(tmp_path / "a", "(2 " * depth + "deep" + ")" * depth))
    assert found.words == ("deep",)


@needs_shared
def test_real_questions_are_aligned() -> None:
    questions = read_questions(DATA / "squad" / "dev.json.xz")
    exact = [q.text_of(span) == text for q in questions for span, text in zip(q.spans, q.answers, strict=True)]
    assert len(questions) == 1391 and sum(exact) > 0.98 * len(exact)


@needs_shared
def test_the_counts_of_real_pairs_and_trees_are_right() -> None:
    pairs = read_sentence_pairs(DATA / "snli" / "dev.tsv.xz")
    assert len(pairs) == 9842 and isinstance(pairs[0], SentencePair)
    path = DATA / "sst5" / "trees-dev.txt.xz"
    sentences = read_sentiment_trees(path)
    assert (len(sentences), sum(len(sentence.words) for sentence in sentences)) == (1101, 21_274)
    assert len(read_sentiment_trees(path, phrases=True)) == 41_447
