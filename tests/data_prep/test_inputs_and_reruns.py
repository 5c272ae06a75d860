"""Inputs that are found, refused or changed on the way, and reruns with something corrected."""

import io
import os
import sys
from pathlib import Path

import pytest

from data_prep.dataset.files import DataError
from data_prep.text.corpus import find_sources, read_blocks
from data_prep.text.tokenizer import Tokenizer
from data_prep.workspace import Workspace
from tests.corpora import bytes_of, write_corpus, write_text


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Return a folder with a file, a folder with one, a hidden folder and a link to a folder."""
    for name in ("corpus/x.txt", "corpus/sub/z.txt", "corpus/.hidden/h.txt", "other/y.txt", "other/deep/w.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a b\n")
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "other")
    return tmp_path / "corpus"


@pytest.mark.parametrize("name", ["", "/*", "/**"])
def test_folders_behind_links_and_in_globs_are_read_whole(folders: Path, name: str) -> None:
    found = [os.path.relpath(source.path, folders) for source in find_sources([f"{folders}{name}"], [], "out")]
    assert found == ["linked/deep/w.txt", "linked/y.txt", "sub/z.txt", "x.txt"]


def test_a_link_that_leads_back_is_not_followed_again(folders: Path) -> None:
    (folders / "sub" / "again").symlink_to(folders)
    assert len(find_sources([str(folders)], [], "out")) == 4


def test_a_link_to_nothing_is_named(folders: Path) -> None:
    (folders / "gone.txt").symlink_to(folders / "nowhere")
    with pytest.raises(DataError, match=r"gone\.txt is a link to a file that does not exist"):
        find_sources([f"{folders}/*"], [], "out")


def test_an_output_in_an_input_folder_is_refused_at_the_first_call(prepare, folders: Path) -> None:
    with pytest.raises(DataError, match=r"lies in the input folder .*; name a folder outside of it"):
        prepare([str(folders)], folders / "data")
    assert not (folders / "data").exists()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", [".work/notes", "index.json", "thesis.txt"])
def test_files_of_others_are_never_removed(prepare, corpus, tmp_path: Path, name: str, overwrite: bool) -> None:
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    (out / name).write_text('{"version": 2, "shards": []}')
    with pytest.raises(DataError, match=rf"holds {name} and is no dataset; name a new or empty folder"):
        prepare(corpus, out, overwrite=overwrite)
    assert (out / name).read_text() == '{"version": 2, "shards": []}'


def test_an_output_that_is_a_file_is_refused(prepare, corpus, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("text")
    with pytest.raises(DataError, match="out is a file; name a folder"):
        prepare(corpus, tmp_path / "out")


def test_a_file_is_locked_and_not_the_folder(tmp_path: Path) -> None:
    """NFS keeps a lock of a folder to the machine that took it."""
    with Workspace(tmp_path).locked(shared=False):
        assert (tmp_path / ".prepare.lock").is_file()
        with pytest.raises(DataError, match="another process is preparing"), Workspace(tmp_path).locked(shared=True):
            raise AssertionError


def test_a_file_that_changes_while_it_is_read_is_an_error_and_is_read_again(
    prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_prep.passes import encode

    first, second = (tmp_path / name for name in ("a.txt", "b.txt"))
    write_text(first, ["a b"] * 50)
    write_text(second, ["c d"] * 50)

    def blocks(*arguments: object) -> object:
        second.write_text("e f\n" * 20)
        return real(*arguments)

    real = encode._blocks
    with monkeypatch.context() as patch:
        patch.setattr(encode, "_blocks", blocks)
        with pytest.raises(DataError, match=r"b\.txt changed while it was read; run the same command again"):
            prepare([str(first), str(second)], tmp_path / "out", workers=1)
    summary = prepare([str(first), str(second)], tmp_path / "out", workers=1)
    assert summary.sentences == {"train": 70}
    prepare([str(first), str(second)], tmp_path / "fresh", workers=1)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "fresh")


def test_a_corrected_line_and_another_share_keep_what_is_encoded(prepare, tmp_path: Path) -> None:
    paths = [Path(path) for path in write_corpus(tmp_path / "text", files=3, sentences=20)]
    good = paths[1].read_bytes()
    paths[1].write_bytes(good + b"bad \xff line\n")
    given = [str(path) for path in paths]
    with pytest.raises(DataError, match="is not UTF-8"):
        prepare(given, tmp_path / "out", heldout=0.001, workers=1)
    work = Workspace(tmp_path / "out")
    kept = {number: work.unit_record(number).stat().st_mtime_ns for number in (0, 2)}
    paths[1].write_bytes(good)
    with pytest.raises(DataError, match="would hold out 0 of 60 sentences"):
        prepare(given, tmp_path / "out", heldout=0.001, workers=1)
    assert kept == {number: work.unit_record(number).stat().st_mtime_ns for number in kept}
    assert prepare(given, tmp_path / "out", heldout=5, workers=1).sentences == {"train": 55, "heldout": 5}
    prepare(given, tmp_path / "fresh", heldout=5, workers=1)
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "fresh")


def test_standard_input_does_not_remove_the_work_of_others(
    prepare, corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="would hold out 0 of"):
        prepare(corpus, tmp_path / "out", heldout=0.00001)
    before = bytes_of(tmp_path / "out")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a b\n")))
    with pytest.raises(DataError, match="holds an unfinished preparation made otherwise"):
        prepare(["-"], tmp_path / "out", heldout=0)
    assert {name: digest for name, digest in bytes_of(tmp_path / "out").items() if "unit" in name} == {
        name: digest for name, digest in before.items() if "unit" in name
    }


def test_closed_standard_input_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(DataError, match="standard input, as - asks for, is closed"):
        find_sources(["-"], [], "out")


def test_more_chunks_than_an_index_may_list_are_refused_before_the_shards(
    prepare, corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_prep.passes import merge

    monkeypatch.setattr(merge, "_MOST_CHUNKS", 100)
    with pytest.raises(DataError, match=r"into more than 100 chunks; use chunk_tokens=\d+ or more") as refused:
        prepare(corpus, tmp_path / "out", chunk_tokens=1)
    least = int(str(refused.value).rpartition("chunk_tokens=")[2].split()[0])
    assert prepare(corpus, tmp_path / "out", chunk_tokens=least).sentences


@pytest.mark.parametrize("line", ["A" + "," * 5000 + " B .", "!" * 100_000, "(" * 100_000, "_" * 50_000, "?!" * 9000])
def test_very_long_runs_of_marks_are_split_in_time(line: str) -> None:
    text, _ = Tokenizer().split(line + "\n")
    assert text.replace(" ", "").replace("\n", "") == line.replace(" ", "")


@pytest.mark.parametrize("kind", ["long window", "skippable frame first"])
def test_unusual_zstd_files_are_read(kind: str, tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    text = b"a b c\n" * 1000
    if kind == "long window":
        parameters = zstandard.ZstdCompressionParameters(window_log=28)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        data = compressor.compress(text) + compressor.flush()
    else:
        data = b"\x50\x2a\x4d\x18\x04\0\0\0size" + zstandard.compress(text)
    (tmp_path / "text.zst").write_bytes(data)
    assert b"".join(block.data for block, _ in read_blocks(str(tmp_path / "text.zst"))) == text
