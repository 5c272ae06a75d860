"""Small made-up tasks, one for each network, that the network can learn only with its special parts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.config.task_networks import (
    CharacterCnnConfig,
    CoreferenceConfig,
    ElmoConfig,
    EmbedderConfig,
    EntailmentConfig,
    QuestionAnsweringConfig,
    SentimentConfig,
    SrlConfig,
    TaggerConfig,
)
from pipeline.tasks.examples.types import (
    CorefDocument,
    LabelledSentence,
    PredicateFrame,
    Question,
    SentencePair,
    TaggedSentence,
)
from pipeline.tasks.networks.coreference import Coreference
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.entailment import Entailment
from pipeline.tasks.networks.network import TaskNetwork, make_tables
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.question_answering import QuestionAnswering
from pipeline.tasks.networks.sentiment import Sentiment
from pipeline.tasks.networks.sequences import Tables
from pipeline.tasks.networks.srl import Srl
from pipeline.tasks.networks.tagger import Tagger

LAYERS, DIM = 3, 6  # of a made-up biLM
CHARACTERS = CharacterCnnConfig(8, [[2, 8], [3, 8]])


@dataclasses.dataclass(frozen=True)
class Task:
    """make: (number of examples, generator) -> examples. answer: the right prediction for an example."""

    kind: type[TaskNetwork[Any, Any, Any]]
    config: Any
    embedder: EmbedderConfig
    make: Callable[[int, np.random.Generator], list[Any]]
    answer: Callable[[Any], Any]
    steps: int
    rate: float = 1e-2

    def examples(self, number: int, seed: int) -> list[Any]:
        return self.make(number, np.random.default_rng(seed))

    def network(self, examples: list[Any], elmo: ElmoConfig, seed: int = 1) -> tuple[Any, Tables]:
        texts = [text for example in examples for text in example.texts()]
        tables, vectors = make_tables(self.embedder, texts, self.kind.labels_of(examples), random_vectors(texts))
        torch.manual_seed(seed)
        num_characters = len(tables.characters.characters) if tables.characters else 0
        embedder = Embedder(self.embedder, vectors, num_characters)
        placement = ElmoPlacement(elmo, LAYERS, DIM)
        return self.kind(self.config, embedder, placement, tables.labels), tables


def random_vectors(texts: list[tuple[str, ...]]) -> tuple[dict[str, int], np.ndarray]:
    words = sorted({word for text in texts for word in text})
    return {word: row for row, word in enumerate(words)}, np.random.default_rng(7).normal(size=(len(words), 16))


def layers_of(texts: tuple[tuple[str, ...], ...]) -> torch.Tensor:
    """Return (L + 1, B, T, D): layers of a made-up biLM that depend on the word and its place."""
    layers = torch.zeros(LAYERS, len(texts), max(map(len, texts)), DIM)
    for row, text in enumerate(texts):
        for place, word in enumerate(text):
            seed = sum(ord(c) * 31**k for k, c in enumerate(word[:5])) + place
            layers[:, row, place] = torch.randn(LAYERS, DIM, generator=torch.Generator().manual_seed(seed))
    return layers


def pick(generator: np.random.Generator, choices: str, number: int) -> list[str]:
    return [str(word) for word in generator.choice(choices.split(), number)]


def next_word_tags(number: int, generator: np.random.Generator) -> list[TaggedSentence]:
    """Make sentences in which the tag of a word is the next word: this needs context."""
    sentences = [pick(generator, "a b c", int(n)) for n in generator.integers(1, 8, number)]
    return [TaggedSentence(tuple(s), tuple(f"before-{w}" for w in [*s[1:], "nothing"])) for s in sentences]


def names(number: int, generator: np.random.Generator) -> list[TaggedSentence]:
    """Make names of one to three words that end in -ov, never the same: this needs characters and whole entities."""
    examples = []
    for _ in range(number):
        words, tags = [], []
        for length in generator.integers(1, 4, 3):
            plain = pick(generator, "the of saw went", 2)
            words += plain + ["".join(generator.choice(list("abcdefgh"), 4)) + "ov" for _ in range(length)]
            tags += ["O"] * 2 + [["S-N"], ["B-N", "E-N"], ["B-N", "I-N", "E-N"]][length - 1]
        examples.append(TaggedSentence(tuple(words), tuple(tags)))
    return examples


def frames(number: int, generator: np.random.Generator) -> list[PredicateFrame]:
    """Make frames with A0 before the predicate and A1 the two words after it: this needs the predicate's place."""
    examples = []
    for length in generator.integers(4, 9, number):
        predicate = int(generator.integers(1, length - 2))
        tags = ["O"] * (predicate - 1) + ["B-A0", "B-V", "B-A1", "I-A1"] + ["O"] * (length - predicate - 3)
        examples.append(PredicateFrame(tuple(pick(generator, "a b c", length)), predicate, tuple(tags)))
    return examples


def documents(number: int, generator: np.random.Generator) -> list[CorefDocument]:
    """Make documents in which a repeated name is the same person, also across sentences; other words mean nothing."""
    examples = []
    for k in range(number):
        sentences = [tuple(pick(generator, "Ann Bob Cy Dee the a saw of ran with", 6)) for _ in range(3)]
        words = [word for sentence in sentences for word in sentence]
        places = {name: [i for i, w in enumerate(words) if w == name] for name in ("Ann", "Bob", "Cy", "Dee")}
        clusters = sorted(tuple((i, i) for i in found) for found in places.values() if len(found) > 1)
        speakers = tuple(("x",) * 6 if i % 2 else ("y",) * 6 for i in range(3))
        examples.append(CorefDocument(f"d{k}", ("news", "talk")[k % 2], tuple(sentences), speakers, tuple(clusters)))
    return examples


def questions(number: int, generator: np.random.Generator) -> list[Question]:
    """Make questions that name a word of the context; the answer is the two words after that word."""
    examples = []
    for k in range(number):
        context = pick(generator, "a b c d", int(generator.integers(5, 12)))
        names = generator.permutation(["k1", "k2", "k3"])
        places = sorted(generator.choice(len(context) - 2, 2, replace=False).tolist())
        for name, place in zip(names, places, strict=False):
            context[place] = str(name)
        asked = int(generator.integers(2))
        span = (places[asked] + 1, places[asked] + 2)
        offsets = tuple((2 * i, 2 * i + 1) for i in range(len(context)))
        question = ("after", str(names[asked]), *pick(generator, "? !", int(generator.integers(1, 3))))
        answers = (" ".join(context[span[0] : span[1] + 1]),)
        examples.append(Question(str(k), tuple(context), "", offsets, question, answers, (span,)))
    return examples


def pairs(number: int, generator: np.random.Generator) -> list[SentencePair]:
    """Make pairs: entailment if each word of the hypothesis is in the premise, neutral if one is not."""
    examples = []
    for k in range(number):
        vocabulary = generator.permutation([f"w{i}" for i in range(12)])
        premise = [str(word) for word in vocabulary[: int(generator.integers(4, 8))]]
        hypothesis = [str(word) for word in generator.permutation(premise)[: int(generator.integers(2, 4))]]
        if k % 2:
            hypothesis[int(generator.integers(len(hypothesis)))] = str(vocabulary[-1])
        examples.append(SentencePair(tuple(premise), tuple(hypothesis), ("entailment", "neutral")[k % 2]))
    return examples


def opinions(number: int, generator: np.random.Generator) -> list[LabelledSentence]:
    """Make sentences whose class is the last of the words good, bad and soso: this needs the order."""
    examples = []
    for length in generator.integers(2, 9, number):
        words = pick(generator, "good bad soso film a", length)
        decisive = [word for word in words if word in ("good", "bad", "soso")] or ["soso"]
        examples.append(LabelledSentence(tuple(words), decisive[-1]))
    return examples


TASKS = {
    "pos": Task(
        Tagger, TaggerConfig([16], 0.1, crf=False), EmbedderConfig("trained", "lower"), next_word_tags,
        lambda e: e.tags, 80, 3e-2,
    ),
    "ner": Task(
        Tagger, TaggerConfig([16, 16], 0.1), EmbedderConfig("trained", "lower", characters=CHARACTERS), names,
        lambda e: e.tags, 40,
    ),
    "srl": Task(Srl, SrlConfig(16, 4, 8, 0.1), EmbedderConfig("trained", "lower"), frames, lambda e: e.tags, 40),
    "coreference": Task(
        Coreference, CoreferenceConfig(16, 3, 0.6, 20, 8, [32, 32], 0.1, 0.1), EmbedderConfig("fixed"), documents,
        lambda e: e.clusters, 60,
    ),
    "question_answering": Task(
        QuestionAnswering, QuestionAnsweringConfig(16, 0.1, 5),
        EmbedderConfig("fixed", "keep_then_lower", characters=CHARACTERS), questions, lambda e: e.spans[0], 45,
    ),
    "entailment": Task(
        Entailment, EntailmentConfig(24, 0.1), EmbedderConfig("trained", "lower"), pairs, lambda e: e.label, 160,
    ),
    "sentiment": Task(
        Sentiment, SentimentConfig(16, 0.1, 0.1, [32, 16], [0.1, 0.1, 0.1]), EmbedderConfig("fixed"), opinions,
        lambda e: e.label, 80,
    ),
}  # fmt: skip
