"""Read and write SQuAD 1.1: one JSON value of articles, paragraphs, and questions that stretches of them answer."""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.files import DataError
from data_prep.dataset.typed_json import parse_json
from pipeline.tasks.examples.lines import empty, read_text, shown, write_lines
from pipeline.tasks.examples.raw_text import OffsetTokenizer
from pipeline.tasks.examples.types import Question, Span

_REMEDY = "give SQuAD 1.1: data, paragraphs, context, qas, each with id, question and answers of text and answer_start"


class _Answer(TypedDict):
    text: str
    answer_start: int


class _Asked(TypedDict):
    id: str
    question: str
    answers: NotRequired[list[_Answer]]


class _Paragraph(TypedDict):
    context: str
    qas: list[_Asked]


class _Article(TypedDict):
    paragraphs: list[_Paragraph]


class _Squad(TypedDict):
    data: list[_Article]


def read_questions(path: str | Path, labelled: bool = True, language: str = "en") -> list[Question]:
    """Return the questions of a file. Questions of a paragraph share its tokens.

    labelled: answers are required. An answer's span is that of all tokens which it touches, so it may be longer than
    the answer. Raises DataError.
    """
    found: _Squad = parse_json(read_text(path), _Squad, str(path), _REMEDY)
    tokenizer = OffsetTokenizer(language)
    questions: list[Question] = []
    for article in found["data"]:
        for paragraph in article["paragraphs"]:
            questions += _questions_of(path, paragraph, labelled, tokenizer)
    if not questions:
        raise empty(path)
    _refuse_repeated_ids(path, questions)
    return questions


def write_questions(source: str | Path, path: str | Path, answers: dict[str, tuple[str, int]]) -> None:
    """Write `source` with one predicted answer a question in place of its own: (text, first character) by id."""
    squad: dict[str, Any] = json.loads(read_text(source))
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                text, start = answers[asked["id"]]
                asked["answers"] = [{"text": text, "answer_start": start}]
    write_lines(path, [json.dumps(squad, ensure_ascii=False)])


def write_answers(path: str | Path, answers: dict[str, tuple[str, int]]) -> None:
    """Write predicted answers as the official script evaluate-v1.1.py reads them: {id: text}."""
    write_lines(path, [json.dumps({name: text for name, (text, _) in answers.items()}, ensure_ascii=False, indent=1)])


def _questions_of(
    path: str | Path, paragraph: _Paragraph, labelled: bool, tokenizer: OffsetTokenizer
) -> Iterator[Question]:
    text = paragraph["context"]
    context, offsets = tokenizer.words_and_offsets(text)
    for asked in paragraph["qas"]:
        question = tokenizer.words(asked["question"])
        if not context or not question:
            raise _bad(path, asked, "has no words, or its paragraph has none; remove it")
        answers = asked.get("answers", []) if labelled else []
        if labelled and not answers:
            raise _bad(path, asked, "has no answer; SQuAD 1.1 answers every question, SQuAD 2.0 does not fit")
        spans = tuple(_span_of(path, asked, answer, text, offsets) for answer in answers)
        yield Question(
            asked["id"], context, text, offsets, question, tuple(answer["text"] for answer in answers), spans
        )


def _span_of(path: str | Path, asked: _Asked, answer: _Answer, text: str, offsets: Sequence[Span]) -> Span:
    """Return the first and the last token that the answer touches."""
    wanted, begin = answer["text"], answer["answer_start"]
    if not wanted.strip():
        raise _bad(path, asked, "has an empty answer; remove it")
    if begin < 0 or text[begin : begin + len(wanted)] != wanted:
        otherwise = text.find(wanted)
        remedy = f"correct it to {otherwise}" if otherwise >= 0 else "the paragraph does not hold it; correct its text"
        raise _bad(path, asked, f"has the answer {shown(wanted)}, which is not at answer_start {begin}; {remedy}")
    begin, end = begin + len(wanted) - len(wanted.lstrip()), begin + len(wanted.rstrip())
    first = bisect_right(offsets, begin, key=lambda offset: offset[0]) - 1
    last = bisect_left(offsets, end, key=lambda offset: offset[0]) - 1
    return first, last


def _bad(path: str | Path, asked: _Asked, what: str) -> DataError:
    return DataError(f"{path}: question {asked['id']} ({shown(asked['question'])}) {what}")


def _refuse_repeated_ids(path: str | Path, questions: list[Question]) -> None:
    """Raise DataError where one id names two questions. One question may be asked twice, with other answers."""
    seen: dict[str, Question] = {}
    for question in questions:
        first = seen.setdefault(question.id, question)
        if (first.question, first.context_text) != (question.question, question.context_text):
            raise DataError(f"{path}: two questions have the id {shown(question.id)}; give each its own")
