"""What the readers of this folder return and the networks train on: one frozen dataclass a task.

`texts()` of each returns the token sequences that a biLM reads for it, in order. Spans are (first, last), both ends
included, in word numbers.
"""

from dataclasses import dataclass

Words = tuple[str, ...]
Span = tuple[int, int]


@dataclass(frozen=True)
class TaggedSentence:
    """A sentence of part-of-speech tagging, or of named-entity recognition. tags: one a word, entities in BIOES."""

    words: Words
    tags: tuple[str, ...]

    def texts(self) -> tuple[Words, ...]:
        return (self.words,)


@dataclass(frozen=True)
class PredicateFrame:
    """One predicate of a sentence and its arguments. predicate: its word's number; tags: one a word, in BIO."""

    words: Words
    predicate: int
    tags: tuple[str, ...]

    def texts(self) -> tuple[Words, ...]:
        return (self.words,)


@dataclass(frozen=True)
class CorefDocument:
    """A document whose mentions are grouped into clusters.

    genre: empty where the data has none. speakers: one a word, grouped as the sentences are, empty strings where the
    data has none. clusters: spans of each, in word numbers of the whole document.
    """

    name: str
    genre: str
    sentences: tuple[Words, ...]
    speakers: tuple[tuple[str, ...], ...]
    clusters: tuple[tuple[Span, ...], ...]

    def texts(self) -> tuple[Words, ...]:
        return self.sentences


@dataclass(frozen=True)
class Question:
    """A question on a paragraph whose answers are stretches of it.

    offsets: (first character, last character + 1) of each token of `context` in `context_text`. answers: their texts,
    as given. spans: their tokens, one an answer that could be aligned.
    """

    id: str
    context: Words
    context_text: str
    offsets: tuple[tuple[int, int], ...]
    question: Words
    answers: tuple[str, ...]
    spans: tuple[Span, ...]

    def texts(self) -> tuple[Words, ...]:
        return (self.context, self.question)

    def text_of(self, span: Span) -> str:
        """Return the paragraph's own text from the first to the last token of `span`."""
        return self.context_text[self.offsets[span[0]][0] : self.offsets[span[1]][1]]


@dataclass(frozen=True)
class SentencePair:
    """Two sentences, and whether the premise entails the hypothesis, contradicts it, or neither (neutral)."""

    premise: Words
    hypothesis: Words
    label: str

    def texts(self) -> tuple[Words, ...]:
        return (self.premise, self.hypothesis)


@dataclass(frozen=True)
class LabelledSentence:
    """A sentence, or a phrase of one, and its class."""

    words: Words
    label: str

    def texts(self) -> tuple[Words, ...]:
        return (self.words,)
