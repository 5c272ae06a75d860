"""Read pretrained word vectors in GloVe's text format: a word and its numbers a line, separated by single spaces.

A first line of two numbers, as word2vec and fastText write it, is passed over.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data_prep.dataset.files import DataError
from pipeline.tasks.examples.lines import bad_line, read_lines, shown


def read_word_vectors(path: str | Path, words: Iterable[str], lower: bool = True) -> tuple[list[str], np.ndarray]:
    """Return the words found, in the file's order, and their vectors (words, D) float32.

    lower: look words up in lower case, and return them so. The first vector of a word counts. Raises DataError.
    """
    wanted = {word.lower() for word in words} if lower else set(words)
    found: list[str] = []
    vectors: list[np.ndarray] = []
    size, left = 0, set(wanted)
    for line, word, text, size in _lines(path):
        if word in left:
            left.remove(word)
            found.append(word)
            vectors.append(_numbers(path, line, text, size))
    if wanted and not found:
        raise DataError(f"{path} has a vector for none of the {len(wanted):,} words; check its language and case")
    return found, np.stack(vectors) if vectors else np.zeros((0, size), np.float32)


def read_first_vectors(path: str | Path, most: int, lower: bool = True) -> tuple[list[str], np.ndarray]:
    """Return the first `most` words and their vectors (words, D) float32. Raises DataError.

    lower: without words that are not in lower case, which look-ups in lower case never find.
    """
    found: dict[str, np.ndarray] = {}
    for line, word, text, size in _lines(path):
        if word not in found and not (lower and word != word.lower()):
            found[word] = _numbers(path, line, text, size)
            if len(found) == most:
                break
    if not found:
        raise DataError(f"{path} has no word vector; give a word and its numbers a line")
    return list(found), np.stack(list(found.values()))


def _lines(path: str | Path) -> Iterator[tuple[int, str, str, int]]:
    """Yield line number, word, the whole line, and how many numbers it has."""
    size = 0
    for line, text in read_lines(path):
        if not text.strip() or (line == 1 and _is_header(text)):
            continue
        text = text.rstrip(" ")
        size = size or text.count(" ")
        if size < 2:
            raise bad_line(path, line, f"is no word vector ({shown(text)}); give a word and its numbers a line")
        word = text.partition(" ")[0] if text.count(" ") == size else text.rsplit(" ", size)[0]
        if text.count(" ") < size:
            what = f"has {text.count(' ')} numbers, but the first vector has {size}; the file is damaged"
            raise bad_line(path, line, what)
        yield line, word, text, size


def _is_header(text: str) -> bool:
    fields = text.split()
    return len(fields) == 2 and all(field.isdecimal() for field in fields)


def _numbers(path: str | Path, line: int, text: str, size: int) -> np.ndarray:
    try:
        vector = np.array(text.rsplit(" ", size)[1:], np.float32)
    except ValueError:
        raise bad_line(path, line, f"has a field that is no number ({shown(text)}); the file is damaged") from None
    if not np.isfinite(vector).all():
        raise bad_line(path, line, f"has a number that is not finite ({shown(text)}); remove the line")
    return vector
