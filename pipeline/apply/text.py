"""Read sentences of text files for the commands that use a model, as `elmo prep` does (docs/reference/dataset.md)."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from data_prep.clean import clean
from data_prep.corpus import Block, Source, read_blocks
from data_prep.files import DataError
from data_prep.tokenizer import Tokenizer

MAX_SENTENCE_WORDS = 100_000


class Sentence(NamedTuple):
    """path: the file as named; line: its number there, from 1. words: none for an empty line."""

    path: str
    line: int
    words: list[str]


def read_sentences(sources: Sequence[Source], tokenize: bool = False, language: str = "en") -> Iterator[Sentence]:
    """Every line as a sentence, empty ones too; with tokenize every sentence of running text.

    Raises DataError naming file and line for text that is not as it should be.
    """
    tokenizer = Tokenizer(language) if tokenize else None
    for source in sources:
        for block, _ in read_blocks(source.path):
            yield from _sentences_of(source.path, block, tokenizer)


def _sentences_of(path: str, block: Block, tokenizer: Tokenizer | None) -> Iterator[Sentence]:
    text, faults = clean(block)
    for line, fault in faults.items():
        raise DataError(f"{path}, line {block.first_line + line + 1:,} {fault}")
    lines = np.arange(block.first_line + 1, block.first_line + 1 + text.count("\n"))
    if tokenizer is not None:
        text, sentences_a_line = tokenizer.split(text)
        lines = np.repeat(lines, sentences_a_line)
    for line, sentence in zip(lines.tolist(), text.split("\n")[:-1], strict=True):
        words = sentence.split()
        if len(words) > MAX_SENTENCE_WORDS:
            raise DataError(
                f"{path}, line {line:,} has {len(words):,} words, more than {MAX_SENTENCE_WORDS:,}; "
                "break it into sentences"
            )
        yield Sentence(path, line, words)


def in_blocks(sentences: Iterator[Sentence], max_sentences: int, max_words: int) -> Iterator[list[Sentence]]:
    """Consecutive sentences in lists, each full when one more sentence would go over a bound."""
    size = [0, 0, 0]  # number of the block, its sentences, its words

    def block_of(sentence: Sentence) -> int:
        if size[1] == max_sentences or (size[1] and size[2] + len(sentence.words) > max_words):
            size[:] = size[0] + 1, 0, 0
        size[1:] = size[1] + 1, size[2] + len(sentence.words)
        return size[0]

    for _, block in groupby(sentences, block_of):
        yield list(block)
