"""Unfinished work that was damaged: one sentence with the remedy, or the same vectors."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import cli
from pipeline.apply.embed import vector_parts as parts
from pipeline.model.formats.pretrained import save_pretrained
from tests.model import tiny

TEXT = "the cat  sat\n\n  a \u00a0b\t c \r\nthe\x85dog\u2028ran \nlast"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_pretrained(folder, tiny.bilm(tiny.config()).core())
    return folder


@pytest.fixture
def unfinished(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Embed three parts, but do not join them into the file; return the command."""
    monkeypatch.setattr(parts, "_PART_WORDS", 4)
    (tmp_path / "text.txt").write_bytes(TEXT.encode())
    command = ["embed", f"checkpoint={model}", f"input={tmp_path}/text.txt", f"output={tmp_path}/out.npz"]
    for task in range(2):
        assert cli.main([*command, f"task={task}", "tasks=2"]) == 0
    assert len(list(plan(tmp_path).parent.glob("part-*.npy"))) > 2
    return command


def plan(folder: Path) -> Path:
    return folder / "out.npz.parts" / "plan.json"


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        value = json.loads(data)
        change(value)
        return json.dumps(value).encode()

    return edit


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("plan.json", lambda data: data[:50]),
        ("plan.json", lambda data: b""),
        ("plan.json", lambda data: b"[" * 10_000),
        ("plan.json", lambda data: b"[]"),
        ("plan.json", edited(lambda p: p.pop("parts"))),
        ("plan.json", edited(lambda p: p.update(identity=None))),
        ("plan.json", edited(lambda p: p["identity"].update(width=7))),
        ("plan.json", edited(lambda p: p.update(files=[]))),
        ("plan.json", edited(lambda p: p["files"][0].__setitem__(1, 3))),
        ("plan.json", edited(lambda p: p["parts"].pop())),
        ("plan.json", edited(lambda p: p["parts"].pop(0))),
        ("plan.json", edited(lambda p: p.update(parts=[]))),
        ("plan.json", edited(lambda p: p["parts"][0].update(sentences=10**12))),
        ("plan.json", edited(lambda p: p["parts"][0].update(words=-1))),
        ("plan.json", edited(lambda p: p["parts"][1].update(words=99))),
        ("plan.json", edited(lambda p: p["parts"][1].update(first=0))),
        ("plan.json", edited(lambda p: p["parts"][0].update(sha256="../x"))),
        ("part-000000.txt", lambda data: data[:-1]),
        ("part-000000.txt", lambda data: b"a" + data[1:]),
        ("part-000001.txt", lambda data: b"\xff"),
        ("part-000001.txt", None),
        ("part-000000.npy", lambda data: data[:-4]),
        ("part-000000.npy", lambda data: b""),
        ("part-000000.npy", lambda data: data[:20] + b"'''" + data[23:]),
        ("part-000001.npy", lambda data: data.replace(b"<f4", b"<i4")),
        ("part-000000.npy", lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:]),
        ("part-000001.npy", lambda data: data + b"\0"),
        ("part-000000.json", edited(lambda record: record.update(bytes=record["bytes"] + 4))),
        ("part-000000.json", edited(lambda record: record.update(xxh3_64="0" * 16))),
        ("part-000001.json", edited(lambda record: record.update(xxh3_64=None))),
        ("part-000001.json", lambda data: b""),
    ],
)
def test_damage_is_reported_in_one_sentence_and_overwrite_fixes_it(
    unfinished: list[str], name: str, damage: Callable[[bytes], bytes] | None, tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = plan(tmp_path).parent / name
    whole = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage(whole))
    capfd.readouterr()
    assert cli.main(unfinished) == cli.EXIT_USER_ERROR
    printed = capfd.readouterr().err.strip().splitlines()[-1]
    assert str(plan(tmp_path).parent) in printed and "overwrite=true" in printed and len(printed) < 500
    assert not (tmp_path / "out.npz").exists()
    assert cli.main([*unfinished, "overwrite=true"]) == 0
    assert cli.main([*unfinished[:3], f"output={tmp_path}/again.npz"]) == 0
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


@pytest.mark.parametrize("suffix", ["npy", "json"])
def test_a_part_without_its_vectors_or_their_record_is_made_again(
    unfinished: list[str], suffix: str, tmp_path: Path
) -> None:
    (plan(tmp_path).parent / f"part-000001.{suffix}").unlink()
    assert cli.main(unfinished) == 0
    assert cli.main([*unfinished[:3], f"output={tmp_path}/again.npz"]) == 0
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


def test_an_output_name_with_a_wildcard_removes_no_other_temporary_files(unfinished: list[str], tmp_path: Path) -> None:
    other, own = tmp_path / ".other.npz.0123abcd.tmp", tmp_path / ".*.npz.0123abcd.tmp"
    for path in (other, own):
        path.write_bytes(b"")
    assert cli.main([*unfinished[:3], f"output={tmp_path}/*.npz"]) == 0
    assert other.exists() and not own.exists()


def test_neighbours_are_not_searched_in_vectors_that_changed(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("the cat sat\na dog ran\n")
    command = ["neighbors", f"checkpoint={model}", f"corpus={tmp_path}/text.txt", "word=cat", "sentence=the cat sat"]
    assert cli.main(command) == 0
    path = tmp_path / "text.txt.neighbors/part-000000.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert cli.main(command) == cli.EXIT_USER_ERROR
    assert f"{path} is damaged (its checksum is not the one of its record)" in capfd.readouterr().err


def test_undamaged_work_is_resumed(unfinished: list[str], tmp_path: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in plan(tmp_path).parent.glob("part-*.npy")}
    assert cli.main([*unfinished, "task=0", "tasks=2"]) == 0
    assert {path.name: path.stat().st_mtime_ns for path in plan(tmp_path).parent.glob("part-*.npy")} == before
    assert cli.main(unfinished) == 0


def test_sentence_to_index_holds_the_stripped_line_as_in_allennlp(unfinished: list[str], tmp_path: Path) -> None:
    assert cli.main(unfinished) == 0
    found = np.load(tmp_path / "out.npz")
    index = json.loads(found["sentence_to_index"][0])
    assert index == {line.strip(): str(number) for number, line in enumerate(TEXT.split("\n"))}
    assert found[index["a \u00a0b\t c"]].shape == (3, 3, 10)
    assert found[index["the\x85dog\u2028ran"]].shape == (3, 3, 10)


def test_a_damaged_faiss_index_is_made_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("faiss", reason="the extra `neighbors` is not installed")
    (tmp_path / "text.txt").write_text("the cat sat\n" * 30 + "a dog ran\n" * 30)
    command = ["neighbors", f"checkpoint={model}", f"corpus={tmp_path}/text.txt", "word=cat", "sentence=the cat sat"]
    command += ["any=true", "approximate=true", f"output={tmp_path}/found.json"]
    assert cli.main(command) == 0
    index, found = tmp_path / "text.txt.neighbors/words.faiss", (tmp_path / "found.json").read_text()
    whole = index.read_bytes()
    for damaged in (whole[:100], b"", b"x" * 500):
        index.write_bytes(damaged)
        assert cli.main(command) == 0
        assert (tmp_path / "found.json").read_text() == found and "is damaged and is made again" in caplog.text
