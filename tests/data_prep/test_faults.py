"""Lines that cannot be used are reported together, and what was read without faults is not read again."""

import html
import io
import os
import sys
from pathlib import Path

import pytest

from data_prep.dataset.files import DataError
from data_prep.prepare import prepare as prepare_with_workers
from data_prep.text.clean import clean
from data_prep.text.corpus import Block
from pipeline.cli import main
from tests.corpora import bytes_of, sentences_of


def write(path: Path, lines: list[bytes]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def with_faults(path: Path, lines: int, faults: list[int]) -> str:
    """Write a text in which the lines numbered `faults`, counted from 1, are not UTF-8; return its path."""
    name = path.stem.encode()
    bad = [b"\xff" if number + 1 in faults else b"%s line %d" % (name, number) for number in range(lines)]
    return write(path, bad)


def test_control_characters_of_raw_text_are_read_as_web_browsers_read_them():
    for code in range(0x80, 0xA0):
        character = html.unescape(f"&#{code};")  # the table of the HTML standard
        expected = character if character.isprintable() else " "
        assert clean(Block(0, f"a{chr(code)}b\n".encode()), is_raw=True) == (f"a{expected}b\n", {}, 1)
    assert clean(Block(0, b"a\x7fb \x1b\x01\n\tc\x0cd\n"), is_raw=True) == ("a b   \n\tc\x0cd\n", {}, 3)
    assert list(clean(Block(0, b"a\0b\n\x7f\n"), is_raw=True).faults) == [0]
    assert list(clean(Block(0, "a\0b\n\x7f\na\x92b\n".encode()), is_raw=False).faults) == [0, 1, 2]


def test_control_characters_of_raw_text_are_counted_and_never_an_error(prepare, tmp_path):
    lines = ["It\x92s \x84fine\x94.", "Sussex \x7fhad it\x85", "\x81", "One two."]
    path = write(tmp_path / "a.txt", [line.encode() for line in lines])
    summary = prepare([path], tmp_path / "out", tokenize=True, shuffle="none")
    assert sentences_of(tmp_path / "out") == ["It ’s „ fine ” .", "Sussex had it …", "One two ."]
    assert (summary.repaired_characters, summary.empty_lines, summary.skipped_lines) == (6, 1, 0)
    assert "control characters" in str(summary) and "6, read as Windows-1252 or white space" in str(summary)
    tokenised = write(tmp_path / "b.txt", [b"good", b"b\x7fad", b"fine"])
    assert "control characters" not in str(prepare([tokenised], tmp_path / "tokenised", on_error="skip"))


def test_an_error_lists_the_first_ten_faults_and_counts_them_all(prepare, tmp_path):
    path = with_faults(tmp_path / "a.txt", 40, list(range(3, 30, 2)))
    with pytest.raises(DataError) as error:
        prepare([path], tmp_path / "out")
    head, *listed = str(error.value).splitlines()
    assert head.startswith("14 lines so far cannot be used; correct them, or let elmo prep skip such lines")
    assert [line.split(" is not ")[0] for line in listed] == [f"  {path}, line {n}" for n in range(3, 22, 2)]


@pytest.mark.parametrize("workers", [1, 2])
def test_faults_of_many_files_are_one_error_in_the_order_of_the_files(tmp_path, workers):
    paths = [with_faults(tmp_path / "corpus" / f"{n}.txt", 20, [7, 9] if n % 2 else []) for n in range(8)]
    with pytest.raises(DataError) as error:
        prepare_with_workers(paths, tmp_path / "out", workers=workers, show_progress=False)
    head, *listed = str(error.value).splitlines()
    assert head.startswith("8 lines so far cannot be used")
    assert [line.split(" is not ")[0] for line in listed] == [
        f"  {paths[n]}, line {line}" for n in (1, 3, 5, 7) for line in (7, 9)
    ]


def test_reading_stops_some_words_after_the_first_fault(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.text.faults._MOST_WORDS", 1000)
    path = with_faults(tmp_path / "a.txt", 60_000, [50, 52, 59_000])
    with pytest.raises(DataError, match=r"2 lines so far cannot be used.*1,000 words after the first fault"):
        prepare([path], tmp_path / "out")


@pytest.mark.parametrize("options", [{}, {"workers": 2}, {"shuffle": "documents"}])
def test_a_run_that_skips_faults_resumes_after_an_error_without_reading_again(tmp_path, options):
    options = {"workers": 1, "show_progress": False} | options
    paths = [with_faults(tmp_path / "corpus" / f"{n}.txt", 50, [5] if n == 2 else []) for n in range(4)]
    out, direct = tmp_path / "out", tmp_path / "direct"
    prepare_with_workers(paths, direct, on_error="skip", **options)
    with pytest.raises(DataError, match=r"2\.txt, line 5 is not UTF-8 .*no other fault was found so far"):
        prepare_with_workers(paths, out, **options)
    encoded = {path.name: path.stat().st_mtime_ns for path in (out / ".work").glob("unit-*.json")}
    assert len(encoded) == 4
    with pytest.raises(DataError, match=r"2\.txt, line 5 is not UTF-8"):
        prepare_with_workers(paths, out, **options)
    prepare_with_workers(
        paths, out, on_error="skip", step="encode", show_progress=False, shuffle=options.get("shuffle", "sentences")
    )
    assert encoded == {path.name: path.stat().st_mtime_ns for path in (out / ".work").glob("unit-*.json")}
    summary = prepare_with_workers(paths, out, on_error="skip", **options)
    assert summary.skipped_lines == 1 and bytes_of(out) == bytes_of(direct)


def test_a_job_array_does_not_continue_with_faults(prepare, tmp_path):
    paths = [with_faults(tmp_path / "corpus" / f"{n}.txt", 50, [5] if n == 2 else []) for n in range(4)]
    prepare(paths, tmp_path / "out", step="encode", task=1, tasks=2)
    with pytest.raises(DataError, match="line 5 is not UTF-8"):
        prepare(paths, tmp_path / "out", step="encode", task=0, tasks=2)
    with pytest.raises(DataError, match="line 5 is not UTF-8"):
        prepare(paths, tmp_path / "out", step="merge")
    assert prepare(paths, tmp_path / "out", on_error="skip").skipped_lines == 1


def test_on_error_may_change_for_a_finished_dataset_if_no_line_was_skipped(prepare, corpus, tmp_path):
    prepare(corpus, tmp_path / "good")
    assert prepare(corpus, tmp_path / "good", on_error="skip").already_done
    bad = [with_faults(tmp_path / "bad.txt", 50, [5])]
    prepare(bad, tmp_path / "skipped", on_error="skip")
    with pytest.raises(DataError, match="on_error: skip -> fail"):
        prepare(bad, tmp_path / "skipped")


def test_a_text_that_was_moved_is_read_from_its_new_place(prepare, tmp_path):
    paths = [with_faults(tmp_path / "corpus" / f"{n}.txt", 50, []) for n in range(4)]
    prepare(paths, tmp_path / "out", step="encode", task=1, tasks=2)
    prepare(paths, tmp_path / "direct")
    (tmp_path / "corpus").rename(tmp_path / "elsewhere")
    prepare([str(tmp_path / "elsewhere")], tmp_path / "out")
    assert bytes_of(tmp_path / "out") == bytes_of(tmp_path / "direct")


def test_faults_of_standard_input_have_line_numbers(prepare, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"good\n\xff\n"))))
    with pytest.raises(DataError, match="-, line 2 is not UTF-8"):
        prepare(["-"], tmp_path / "out")


def test_the_records_of_a_preparation_are_checked_when_they_are_read(prepare, tmp_path):
    paths = [with_faults(tmp_path / "corpus" / f"{n}.txt", 50, []) for n in range(2)]
    prepare(paths, tmp_path / "out", step="encode")
    for name in ("plan.json", "unit-000001.json"):
        path = tmp_path / "out" / ".work" / name
        good = path.read_bytes()
        for bad in (b"", b"{}" * (name == "plan.json"), b"[1]", good[:-40], good.replace(b": 0", b": -1", 9)):
            path.write_bytes(bad)
            with pytest.raises(DataError, match=f"{name} is damaged .*overwrite=true"):
                prepare(paths, tmp_path / "out")
        path.write_bytes(good)
    prepare(paths, tmp_path / "out")
    (tmp_path / "out" / ".prepared.json").write_text('{"options": 1, "inputs": []}')
    with pytest.raises(DataError, match=r"\.prepared\.json is damaged \(options is 1"):
        prepare(paths, tmp_path / "out")


@pytest.mark.parametrize("inside", [False, True])
def test_a_name_that_is_not_utf_8_is_refused_in_one_sentence(tmp_path, capfd, monkeypatch, inside):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    path = write(folder / "a.txt", [b"a b"])
    monkeypatch.chdir(folder)
    name = "a.txt" if inside else path
    with pytest.raises(DataError, match=r"input .*/caf\\xe9/a\.txt has a name that is not UTF-8; rename it"):
        prepare_with_workers([name], tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert main(["prep", f"input={tmp_path}/caf*/a.txt", "output=out"]) == 2
    assert (
        capfd.readouterr().err
        == f"elmo prep: input {tmp_path}/caf\\xe9/a.txt has a name that is not UTF-8; rename it\n"
    )
