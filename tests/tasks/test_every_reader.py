"""Faults that a file of any format may have, for each reader of examples; and word vectors."""

import gzip
import lzma
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.dataset.files import DataError
from pipeline.tasks.examples.columns import read_columns
from pipeline.tasks.examples.coreference import read_coreference
from pipeline.tasks.examples.predicate_frames import read_predicate_frames
from pipeline.tasks.examples.questions import read_questions
from pipeline.tasks.examples.sentence_pairs import read_sentence_pairs
from pipeline.tasks.examples.sentiment_trees import read_sentiment_trees
from pipeline.tasks.examples.word_vectors import read_word_vectors
from tests.tasks.excerpts import CONLL2012, CRISIS, DRACULA, STORY, TREES, TSV, WIKIGOLD, json_line, squad
from tests.tasks.files import VECTORS, needs_shared, refused, write

GLOVE = "the 0.5 -1 2e-1\n, 1 2 3\nZürich 4 5 6\n. . . 7 8 9\n"
Reader = Callable[[Path], Any]
READERS: dict[str, tuple[Reader, str]] = {
    "columns": (partial(read_columns, entities=True), WIKIGOLD),
    "frames": (read_predicate_frames, json_line(STORY)),
    "frames of CoNLL-2012": (read_predicate_frames, CONLL2012),
    "documents": (read_coreference, json_line(DRACULA)),
    "documents of CoNLL-2012": (read_coreference, CONLL2012),
    "questions": (read_questions, squad(CRISIS) + "\n"),
    "pairs": (read_sentence_pairs, TSV),
    "trees": (read_sentiment_trees, TREES),
    "vectors": (lambda path: read_word_vectors(path, ["the", "Zürich"])[0], GLOVE),
}
each_reader = pytest.mark.parametrize("name", READERS)


@each_reader
def test_compressed_and_windows_files_are_read_like_plain_ones(tmp_path: Path, name: str) -> None:
    read, text = READERS[name]
    plain = read(write(tmp_path / "a", text))
    assert read(write(tmp_path / "a.gz", gzip.compress(text.encode()))) == plain
    assert read(write(tmp_path / "a.xz", lzma.compress(text.encode()))) == plain
    assert read(write(tmp_path / "b", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())) == plain
    assert read(write(tmp_path / "c", text.rstrip("\n"))) == plain or "CoNLL-2012" in name


@each_reader
def test_faults_of_any_file_are_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    read, text = READERS[name]
    lines = text.count("\n")
    refused(read, tmp_path / "a", "", "holds no example")
    refused(read, tmp_path / "a", "\n \n", "holds no example")
    refused(read, tmp_path / "a", text.encode() + b"caf\xe9\n", f"line {lines + 1}", "is not UTF-8 (byte 0xe9 at 4)")
    refused(read, tmp_path / "a.xz", lzma.compress(text.encode())[:-20], "cut short or damaged")
    refused(read, tmp_path / "a.gz", text, "not compressed as its name says")
    refused(read, tmp_path / "a", b"\0\x01" * 5000)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=r"does not exist|is a folder"):
            read(missing)


def test_the_vectors_of_the_given_words_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a", GLOVE)
    words, vectors = read_word_vectors(path, ["The", ". . .", "absent"])
    assert words == ["the", ". . ."] and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [[0.5, -1, 0.2], [7, 8, 9]])
    assert read_word_vectors(path, ["The", "Zürich", ","], lower=False)[0] == [",", "Zürich"]
    assert read_word_vectors(write(tmp_path / "b", f"4 3\n{GLOVE}"), ["the"])[0] == ["the"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (GLOVE + "a 1 2\n", ("line 5", "2 numbers, but the first vector has 3")),
        (GLOVE.replace("4 5 6", "4 x 6"), ("line 3", "no number")),
        (GLOVE.replace("4 5 6", "4 nan 6"), ("line 3", "not finite")),
        ("the\n", ("line 1", "no word vector")),
        ("a 1 2\n", ("none of the 1 words",)),
    ],
)
def test_broken_vectors_are_refused_with_file_and_line(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    refused(lambda path: read_word_vectors(path, ["Zürich"], lower=False), tmp_path / "a", text, *parts)


@needs_shared
def test_real_vectors_are_read() -> None:
    words, vectors = read_word_vectors(VECTORS / "glove.100d.60k.txt.xz", ["The", "of", "Zqx"])
    assert words == ["the", "of"] and vectors.shape == (2, 100)
    assert vectors[0, :2].tolist() == pytest.approx([-0.0382, -0.2449])
