"""The tasks: for each its network, how its files are read and written, and its official score."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pipeline.config.tasks import TaskConfig, task_schema
from pipeline.tasks.examples.columns import read_columns, write_columns
from pipeline.tasks.examples.coreference import read_coreference, write_coreference
from pipeline.tasks.examples.predicate_frames import read_predicate_frames, write_predicate_frames
from pipeline.tasks.examples.questions import read_questions, write_questions
from pipeline.tasks.examples.sentence_pairs import read_sentence_pairs, write_sentence_pairs
from pipeline.tasks.examples.sentiment_trees import read_sentiment_trees, write_sentiment_trees
from pipeline.tasks.examples.types import TaggedSentence
from pipeline.tasks.metrics.answers import AnswerScores
from pipeline.tasks.metrics.coreference import CorefScores
from pipeline.tasks.metrics.counts import Accuracy
from pipeline.tasks.metrics.spans import EntityF1, RoleF1
from pipeline.tasks.networks.coreference import Coreference
from pipeline.tasks.networks.entailment import Entailment
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.question_answering import QuestionAnswering
from pipeline.tasks.networks.sentiment import Sentiment
from pipeline.tasks.networks.srl import Srl
from pipeline.tasks.networks.tagger import Tagger
from pipeline.tasks.training.result import Scores


@dataclass(frozen=True)
class Kind:
    """A task. read(path, config, labelled) returns its examples. write(source, path, examples, predictions, config).

    score(examples, predictions): official scores in percent, `main` among them, which early stopping watches.
    sums_loss: the network's loss is a sum over the batch, not a mean. read_train: reads training data where that
    differs.
    """

    network: type[TaskNetwork[Any, Any, Any]]
    read: Callable[[str, TaskConfig, bool], list[Any]]
    write: Callable[[str, Path, Sequence[Any], Sequence[Any], TaskConfig], None]
    score: Callable[[Sequence[Any], Sequence[Any]], Scores]
    main: str
    sums_loss: bool = False
    read_train: Callable[[str, TaskConfig], list[Any]] | None = None


def _read_tags(path: str, config: TaskConfig, labelled: bool, entities: bool) -> list[TaggedSentence]:
    columns = config.format
    return read_columns(path, columns.word_column, columns.tag_column if labelled else None, entities and labelled)


def _write_tags(
    source: str, path: Path, examples: Sequence[Any], tags: Sequence[Any], config: TaskConfig, entities: bool
) -> None:
    write_columns(source, path, tags, "IOB2" if entities else None)


def _write_spans(source: str, path: Path, questions: Sequence[Any], spans: Sequence[Any], config: TaskConfig) -> None:
    answers = {
        question.id: (question.text_of(span), question.offsets[span[0]][0])
        for question, span in zip(questions, spans, strict=True)
    }
    write_questions(source, path, answers)


class _Metric(Protocol):
    def update(self, gold: Any, predicted: Any, /) -> None: ...
    def result(self) -> Scores: ...


def _scored(metric: _Metric, gold: Iterable[Any], predicted: Iterable[Any]) -> Scores:
    for one, other in zip(gold, predicted, strict=True):
        metric.update(one, other)
    return metric.result()


def _score_tags(metric: type[EntityF1 | RoleF1 | Accuracy], examples: Sequence[Any], tags: Sequence[Any]) -> Scores:
    return _scored(metric(), (example.tags for example in examples), tags)


def _score_labels(examples: Sequence[Any], labels: Sequence[Any]) -> Scores:
    return _scored(Accuracy(), ([example.label] for example in examples), ([label] for label in labels))


def _score_clusters(documents: Sequence[Any], clusters: Sequence[Any]) -> Scores:
    return _scored(CorefScores(), (document.clusters for document in documents), clusters)


def _score_answers(questions: Sequence[Any], spans: Sequence[Any]) -> Scores:
    answers = [question.text_of(span) for question, span in zip(questions, spans, strict=True)]
    return _scored(AnswerScores(), (question.answers for question in questions), answers)


KINDS = {
    "pos": Kind(
        Tagger,
        partial(_read_tags, entities=False),
        partial(_write_tags, entities=False),
        partial(_score_tags, Accuracy),
        "accuracy",
    ),
    "ner": Kind(
        Tagger,
        partial(_read_tags, entities=True),
        partial(_write_tags, entities=True),
        partial(_score_tags, EntityF1),
        "f1",
        sums_loss=True,
    ),
    "srl": Kind(
        Srl,
        lambda path, config, labelled: read_predicate_frames(path, labelled),
        lambda source, path, examples, tags, config: write_predicate_frames(source, path, tags),
        partial(_score_tags, RoleF1),
        "f1",
    ),
    "coref": Kind(
        Coreference,
        lambda path, config, labelled: read_coreference(path, labelled),
        lambda source, path, examples, clusters, config: write_coreference(source, path, clusters),
        _score_clusters,
        "f1",
    ),
    "squad": Kind(
        QuestionAnswering,
        lambda path, config, labelled: read_questions(path, labelled, config.format.language),
        _write_spans,
        _score_answers,
        "f1",
    ),
    "snli": Kind(
        Entailment,
        lambda path, config, labelled: read_sentence_pairs(path, labelled, config.format.language),
        lambda source, path, examples, labels, config: write_sentence_pairs(source, path, labels),
        _score_labels,
        "accuracy",
    ),
    "sst5": Kind(
        Sentiment,
        lambda path, config, labelled: read_sentiment_trees(path),
        lambda source, path, examples, labels, config: write_sentiment_trees(source, path, labels),
        _score_labels,
        "accuracy",
        read_train=lambda path, config: read_sentiment_trees(path, phrases=config.training.all_phrases),
    ),
}


def kind_of(task: str) -> Kind:
    """Return the task called `task`. Raises ConfigError for another name."""
    task_schema(task)
    return KINDS[task]
