"""The commands that use a model read text by the rules of `elmo prep`."""

import os
from pathlib import Path

import pytest

from data_prep.dataset.files import DataError
from data_prep.text.corpus import find_sources
from pipeline.apply.embed import text
from pipeline.apply.embed.text import read_sentences
from pipeline.cli import main


def read(path: Path, data: bytes, tokenize: bool = False) -> list[tuple[int, list[str]]]:
    path.write_bytes(data)
    sources = find_sources([str(path)], [], str(path.parent / "out"))
    return [(sentence.line, sentence.words) for sentence in read_sentences(sources, tokenize)]


def test_control_characters_are_repaired_in_raw_text_and_refused_in_tokenised_text(tmp_path: Path) -> None:
    data = "It\x92s so.\n\x81\nShe\x7f left.\n".encode()
    assert read(tmp_path / "a.txt", data, tokenize=True) == [
        (1, ["It", "’s", "so", "."]),
        (2, []),
        (3, ["She", "left", "."]),
    ]
    with pytest.raises(
        DataError, match=r"3 lines so far cannot be used[^\n]*\n[^\n]*line 1 holds the control character U\+0092"
    ):
        read(tmp_path / "a.txt", data)


def test_an_error_lists_all_kinds_of_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_SENTENCE_WORDS", 5)
    with pytest.raises(DataError) as error:
        read(tmp_path / "a.txt", b"good\n\xff\na b c d e f\n</S>\n")
    head, *listed = str(error.value).splitlines()
    assert head.startswith("3 lines so far cannot be used; correct them, or leave such lines out")
    assert [line.removeprefix(f"  {tmp_path}/a.txt, ").split(" ")[:3] for line in listed] == [
        ["line", "2", "is"],
        ["line", "3", "has"],
        ["line", "4", "holds"],
    ]


@pytest.mark.parametrize(
    "command",
    ["embed input=caf*/a.txt output=a.h5", "score input=caf*/a.txt", "evaluate data=caf*/a.txt",
     "neighbors corpus=caf*/a.txt index=index word=a sentence=a"],
)  # fmt: skip
def test_a_file_whose_name_is_not_utf_8_is_refused_in_one_sentence(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "a.txt").write_text("a b\n")
    monkeypatch.chdir(tmp_path)
    assert main([*command.split(), f"checkpoint={trained}", "accelerator=cpu"]) == 2
    name = command.split()[0]
    printed = f"elmo {name}: input {tmp_path}/caf\\xe9/a.txt has a name that is not UTF-8; rename it\n"
    assert capfd.readouterr().err.endswith(printed)
