"""Read sentences of text files for the commands that use a model, as `elmo prep` does (docs/reference/dataset.md)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_prep.text.clean import clean
from data_prep.text.corpus import Block, Source, read_blocks
from data_prep.text.faults import Fault, are_enough, error_of
from data_prep.text.tokenizer import Tokenizer

MAX_SENTENCE_WORDS = 100_000


class Sentence(NamedTuple):
    """path: the file as named; line: its number there, from 1. words: none for an empty line.

    text: the words with the white space between them that the line has.
    """

    path: str
    line: int
    words: list[str]
    text: str


def read_sentences(sources: Sequence[Source], tokenize: bool = False, language: str = "en") -> Iterator[Sentence]:
    """Yield every line as a sentence, empty lines too; with tokenize, every sentence of running text.

    Raises DataError for faulty text. After the first fault it yields no more sentences, but reads the file to list more
    faults.
    """
    tokenizer = Tokenizer(language) if tokenize else None
    for source in sources:
        faults: list[Fault] = []
        words = 0
        for block, _ in read_blocks(source.path):
            for sentence in _sentences_of(source.path, block, tokenizer, faults):
                if not faults:
                    yield sentence
                words += len(sentence.words) if faults else 0
            if are_enough(len(faults), words):
                break
        if faults:
            raise error_of(faults, "leave such lines out")


def _sentences_of(path: str, block: Block, tokenizer: Tokenizer | None, faults: list[Fault]) -> Iterator[Sentence]:
    """Yield the block's sentences; append their faults to `faults`."""
    text, found, _ = clean(block, is_raw=tokenizer is not None)
    faults += [Fault(path, block.first_line + line + 1, fault) for line, fault in found.items()]
    lines = np.arange(block.first_line + 1, block.first_line + 1 + text.count("\n"))
    if tokenizer is not None:
        text, sentences_a_line = tokenizer.split(text)
        lines = np.repeat(lines, sentences_a_line)
    for line, sentence in zip(lines.tolist(), text.split("\n")[:-1], strict=True):
        words = sentence.split()
        if len(words) > MAX_SENTENCE_WORDS:
            what = f"has {len(words):,} words, more than {MAX_SENTENCE_WORDS:,}; break it into sentences"
            faults.append(Fault(path, line, what))
        yield Sentence(path, line, words, sentence.strip())


def in_blocks(sentences: Iterator[Sentence], max_sentences: int, max_words: int) -> Iterator[list[Sentence]]:
    """Yield consecutive sentences in lists of at most max_sentences and max_words; a longer sentence is alone."""
    block: list[Sentence] = []
    words = 0
    for sentence in sentences:
        if block and (len(block) == max_sentences or words + len(sentence.words) > max_words):
            yield block
            block, words = [], 0
        block.append(sentence)
        words += len(sentence.words)
    if block:
        yield block
