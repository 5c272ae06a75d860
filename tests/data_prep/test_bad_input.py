"""Each kind of bad input has the effect that docs/reference/dataset.md describes."""

import bz2
import gzip
import io
import lzma
import os
import stat
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from data_prep.dataset.files import DataError
from data_prep.dataset.open import open_dataset
from tests.corpora import lines_of, sentences_of

BAD_LINES = {
    "not UTF-8": (b"caf\xe9 au lait", "is not UTF-8 (byte 0xe9 at 4)"),
    "a surrogate": (b"a \xed\xa0\x80", "is not UTF-8"),
    "NUL": (b"a\0b", "control character U+0000 at 2"),
    "escape": (b"a \x1b[0m b", "control character U+001B"),
    "delete": (b"a \x7f", "control character U+007F"),
    "a C1 control": ("a \x9f b".encode(), "control character U+009F"),
    "a forged sentence begin": (b"a <S> b", "holds the word <S>"),
    "a forged sentence end": (b"a </S> b", "holds the word </S>"),
    "too many words": (b"a " * 51, "has 51 words, more than max_sentence_words=50"),
}
GOOD = [b"first good line", b"second good line", b"third good line"]


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_fails_with_file_line_and_remedy(prepare, tmp_path, kind):
    bad, message = BAD_LINES[kind]
    path = write(tmp_path / "a.txt", b"\n".join([GOOD[0], GOOD[1], bad, GOOD[2]]))
    with pytest.raises(DataError) as error:
        prepare([path], tmp_path / "out", max_sentence_words=50)
    assert f"{path}, line 3 " in str(error.value) and message in str(error.value)
    assert "on_error=skip" in str(error.value)


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_can_be_skipped_and_is_listed(prepare, tmp_path, kind):
    bad, message = BAD_LINES[kind]
    path = write(tmp_path / "a.txt", b"\n".join([GOOD[0], bad, GOOD[1], GOOD[2], bad]))
    summary = prepare([path], tmp_path / "out", on_error="skip", max_sentence_words=50, shuffle="none")
    assert sentences_of(tmp_path / "out") == [line.decode() for line in GOOD]
    assert (summary.skipped_lines, summary.empty_lines, summary.lines) == (2, 0, 5)
    listed = [line.split("\t") for line in (tmp_path / "out" / "skipped.tsv").read_text().splitlines()]
    assert [(name, line) for name, line, _ in listed] == [("a.txt", "2"), ("a.txt", "5")]
    assert all(message in fault for _, _, fault in listed)
    assert "a.txt:2: " in str(summary)
    words = open_dataset(tmp_path / "out").lexicon.words(3)
    assert sorted(words) == sorted({word.decode() for line in GOOD for word in line.split()})


def test_line_numbers_in_errors_count_from_the_start_of_a_large_file(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.plan.UNIT_BYTES", 100)
    lines = [f"line {number}".encode() for number in range(200)]
    lines[150] = b"\xff"
    path = write(tmp_path / "a.txt", b"\n".join(lines))
    with pytest.raises(DataError, match="line 151 is not UTF-8"):
        prepare([path], tmp_path / "out")
    summary = prepare([path], tmp_path / "skipped", on_error="skip")
    assert summary.first_skipped[0].startswith("a.txt:151: ")


def test_a_skipped_line_does_not_end_a_document(prepare, tmp_path):
    documents = [[f"{number} {i}" for i in range(4)] for number in range(30)]
    text = "\n\n".join("\n".join([*document[:2], "\0", *document[2:]]) for document in documents)
    path = write(tmp_path / "a.txt", text.encode())
    prepare([path], tmp_path / "out", on_error="skip", shuffle="documents")
    found = sentences_of(tmp_path / "out")
    assert all(found[i : i + 4] in documents for i in range(0, len(found), 4))


def test_an_endless_line_does_not_fill_the_memory(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.text.corpus.MAX_LINE_BYTES", 300_000)
    for name, after in (("a.txt", b"\nlast"), ("b.txt", b"")):
        path = write(tmp_path / name, b"first\n" + b"x" * 2_000_000 + after)
        with pytest.raises(DataError, match="line 2 is longer than"):
            prepare([path], tmp_path / f"out-{name}")
        summary = prepare([path], tmp_path / f"skipped-{name}", on_error="skip", shuffle="none")
        assert sentences_of(tmp_path / f"skipped-{name}") == ["first", "last"][: 2 if after else 1]
        assert summary.skipped_lines == 1


def test_any_white_space_separates_words_and_only_line_feeds_separate_lines(prepare, tmp_path):
    text = "\ufeffa\tb\r\nc\u00a0d\u2028e\x0bf\u3000g\x85h\r\n\r\n   \n\u200bi \ufeffj"
    path = write(tmp_path / "a.txt", text.encode())
    summary = prepare([path], tmp_path / "out", shuffle="none")
    assert sentences_of(tmp_path / "out") == ["a b", "c d e f g h", "\u200bi \ufeffj"]
    assert summary.empty_lines == 2


def test_the_marker_of_unknown_words_in_a_text_is_read_as_the_unknown_word(prepare, tmp_path):
    path = write(tmp_path / "a.txt", b"the <UNK> sat\n")
    summary = prepare([path], tmp_path / "out")
    dataset = open_dataset(tmp_path / "out")
    assert dataset.splits["train"].chunk(0).tolist()[1] == 2
    assert dataset.lexicon.words() == ["<S>", "</S>", "<UNK>", "sat", "the"] and summary.unk_words == 1
    assert dataset.lexicon.counts[2] == 1


@pytest.mark.parametrize("suffix", ["gz", "xz", "bz2", "zst"])
def test_compressed_text_is_read_under_any_name_and_damage_is_found(prepare, tmp_path, corpus, suffix):
    compress = {
        "gz": gzip.compress,
        "xz": lzma.compress,
        "bz2": bz2.compress,
        "zst": zstandard.ZstdCompressor().compress,
    }[suffix]
    half = [compress(Path(path).read_bytes()) for path in corpus[:2]]  # two streams in a row are one text
    for name in (f"a.{suffix}", "noname"):
        path = write(tmp_path / name, half[0] + half[1])
        prepare([path], tmp_path / f"out-{name}", shuffle="none")
        assert sentences_of(tmp_path / f"out-{name}") == lines_of(corpus[:2])
    cut = write(tmp_path / f"cut.{suffix}", half[0] + half[1][:-20])
    with pytest.raises(DataError, match=f"cut.{suffix} is cut short or damaged"):
        prepare([cut], tmp_path / "cut")
    plain = write(tmp_path / f"plain.{suffix}", b"not compressed\n")
    with pytest.raises(DataError, match="not compressed as its name says"):
        prepare([plain], tmp_path / "plain")


def test_standard_input_is_read_plain_and_compressed(prepare, tmp_path, monkeypatch, corpus):
    for name, encode in (("plain", bytes), ("gz", gzip.compress)):
        data = encode(Path(corpus[0]).read_bytes())
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
        prepare(["-"], tmp_path / name, shuffle="none")
        assert sentences_of(tmp_path / name) == lines_of(corpus[:1])
    with pytest.raises(DataError, match="cannot be known; use overwrite=true"):
        prepare(["-"], tmp_path / "plain", shuffle="none")
    with pytest.raises(DataError, match="save it to a file first"):
        prepare(["-"], tmp_path / "step", step="encode")


def test_inputs_that_cannot_be_used_are_refused_with_a_remedy(prepare, tmp_path, corpus):
    out = tmp_path / "out"
    os.link(corpus[0], tmp_path / "hard-link.txt")
    (tmp_path / "soft-link.txt").symlink_to(corpus[0])
    (tmp_path / "nothing").mkdir()
    empty = write(tmp_path / "empty.txt", b"")
    os.mkfifo(tmp_path / "pipe")
    for inputs, message in (
        ([], "no input"),
        ([str(tmp_path / "absent.txt")], "does not exist; check the spelling"),
        ([str(tmp_path / "*.nothing")], "no file matches"),
        ([str(tmp_path / "nothing")], "holds no files"),
        ([corpus[0], corpus[0]], "is the same file as"),
        ([corpus[0], str(tmp_path / "hard-link.txt")], "is the same file as"),
        ([corpus[0], str(tmp_path / "soft-link.txt")], "is the same file as"),
        ([str(tmp_path / "pipe")], "neither a file nor a folder"),
        ([empty], "there is no train text"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(inputs, out)
    with pytest.raises(DataError, match="is the same file as"):
        prepare([corpus[0]], out, heldout_inputs=[corpus[0]])
    with pytest.raises(DataError, match="there is no heldout text"):
        prepare([corpus[0]], tmp_path / "out2", heldout_inputs=[empty])
    with pytest.raises(DataError, match="one string"):
        prepare(corpus[0], out)


def test_an_empty_file_among_others_gives_only_a_warning(prepare, tmp_path, corpus):
    summary = prepare([corpus[0], write(tmp_path / "empty.txt", b"")], tmp_path / "out")
    assert summary.inputs_without_text == ["empty.txt"]


@contextmanager
def as_an_ordinary_user():
    """Run a command as a user who is not root, because root can read every file."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def test_an_unreadable_file_is_refused(prepare):
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which only its owner can enter
        os.chmod(folder, 0o777)
        path = write(Path(folder) / "a.txt", b"a\n")
        os.chmod(path, stat.S_IWUSR)
        with as_an_ordinary_user(), pytest.raises(DataError, match="cannot be read"):
            prepare([path], Path(folder) / "out")


def test_folders_and_globs_stand_for_their_files_in_order_without_hidden_ones(prepare, tmp_path, corpus):
    folder = Path(corpus[0]).parent
    write(folder / ".hidden", b"\xff")
    prepare([str(folder)], tmp_path / "a", shuffle="none")
    prepare([str(folder / "*.txt")], tmp_path / "b", shuffle="none")
    assert sentences_of(tmp_path / "a") == sentences_of(tmp_path / "b") == lines_of(sorted(corpus))


def test_input_below_the_output_folder_is_refused(prepare, tmp_path):
    (tmp_path / "out").mkdir()
    path = write(tmp_path / "out" / "a.txt", b"a\n")
    with pytest.raises(DataError, match="lies in the output folder"):
        prepare([path], tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heldout": 1200}, "leaves none to train on"),
        ({"heldout": 0.0001}, "would hold out 0 of 1200"),
        ({"heldout": 1.5}, "is no share"),
        ({"heldout": -1}, "too small"),
        ({"heldout": float("nan")}, "is no share"),
        ({"heldout": 3, "heldout_inputs": ["x"]}, "exclude each other"),
        ({"shuffle": "lines"}, "shuffle=lines is unknown; use one of sentences"),
        ({"on_error": "ignore"}, "unknown"),
        ({"chunk_tokens": 0}, "too small"),
        ({"seed": -1}, "too small"),
        ({"workers": -1}, "too small"),
        ({"max_sentence_words": 1 << 23}, "above"),
        ({"tokenize": True, "language": "xx9"}, "not usable"),
        ({"step": "encode", "task": 2, "tasks": 2}, "does not exist"),
        ({"step": "all"}, "step=all is unknown"),
        ({"tasks": 0}, "task=0 of tasks=0 is a share of one pass; give step= too"),
        ({"tasks": 2, "task": 1}, "task=1 of tasks=2 is a share of one pass; give step= too"),
        ({"step": "merge"}, "run step=encode"),
        ({"shuffle": "documents", "shard_tokens": 1000}, "a document of more than shard_tokens=1,000"),
    ],
)
def test_invalid_options_are_refused(prepare, tmp_path, corpus, options, message):
    with pytest.raises(DataError, match=message):
        prepare(corpus, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "index.json").exists()
