"""`elmo embed`: every format, every choice of layers, bad text, and the same file after any kill."""

import gzip
import hashlib
import io
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from pipeline import cli
from pipeline.apply.embed import vector_parts as parts
from pipeline.apply.embed.embed import embed, embed_sentences
from pipeline.config.commands import EmbedConfig
from pipeline.model.formats.pretrained import save_pretrained
from tests.model import tiny
from tests.processes import killed_at

TEXT = "the cat 's tail\n\nw1  wörd7\t漢字 😀\r\n" + "a " * 30 + "\n\nthe cat 's tail\nno line end"
SENTENCES = [line.split() for line in TEXT.split("\n")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    words = ["<S>", "</S>", "<UNK>", "the", "a", "cat"]
    save_pretrained(folder, tiny.bilm(tiny.config(), len(words)), words=words, counts=np.arange(6, 0, -1))
    return folder


@pytest.fixture(scope="module")
def expected() -> list[np.ndarray]:
    return [layers.numpy() for layers in embed_sentences(tiny.bilm(tiny.config()), SENTENCES)]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode())
    return path


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_PART_WORDS", 8)


def run(model: Path, text: Path, output: Path, **options: Any) -> int:
    pairs = [f"{name}={value}" for name, value in options.items()]
    return cli.main(["embed", f"checkpoint={model}", f"input={text}", f"output={output}", *pairs])


def assert_close(ours: np.ndarray, expected: np.ndarray, atol: float = 1e-6) -> None:
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=0, atol=atol)


def test_hdf5_is_in_the_layout_of_bilm_tf_and_allennlp(
    model: Path, text: Path, tmp_path: Path, expected: list[np.ndarray], small_parts: None
) -> None:
    assert run(model, text, tmp_path / "out.h5") == 0
    with h5py.File(tmp_path / "out.h5") as file:
        assert set(file) == {*map(str, range(7)), "sentence_to_index"}
        for number, layers in enumerate(expected):
            assert file[str(number)].dtype == np.float32
            assert_close(file[str(number)][...], layers)
        assert file["sentence_to_index"].shape == (1,)
        index = json.loads(file["sentence_to_index"][0])
    # Of two equal lines the last, as in AllenNLP.
    assert index["w1  wörd7\t漢字 😀"] == "2" and index["the cat 's tail"] == "5"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "text.txt"]


def test_npz_and_safetensors_hold_the_same(
    model: Path, text: Path, tmp_path: Path, expected: list[np.ndarray], small_parts: None
) -> None:
    from safetensors.numpy import load_file

    for name in ("out.npz", "out.safetensors"):
        assert run(model, text, tmp_path / name, dtype="float16") == 0
    found = [np.load(tmp_path / "out.npz"), load_file(tmp_path / "out.safetensors")]
    for number, layers in enumerate(expected):
        for arrays in found:
            assert arrays[str(number)].dtype == np.float16
            assert_close(arrays[str(number)], layers, 4e-3)
    assert json.loads(found[0]["sentence_to_index"][0])["no line end"] == "6"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_has_one_row_for_each_word(
    model: Path, text: Path, tmp_path: Path, expected: list[np.ndarray], small_parts: None, dtype: str
) -> None:
    table = pytest.importorskip("pyarrow.parquet")
    assert run(model, text, tmp_path / "out.parquet", dtype=dtype) == 0
    rows = table.read_table(tmp_path / "out.parquet").to_pylist()
    words = [(s, n, word) for s, sentence in enumerate(SENTENCES) for n, word in enumerate(sentence)]
    assert [(row["sentence"], row["position"], row["word"]) for row in rows] == words
    for row in rows:
        for layer in range(3):
            ours = np.array(row[f"layer_{layer}"])
            assert_close(ours, expected[row["sentence"]][layer, row["position"]], 1e-6 if dtype == "float32" else 4e-3)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"layers": "top"}, [0, 0, 1]),
        ({"layers": 0}, [1, 0, 0]),
        ({"layers": 1}, [0, 1, 0]),
        ({"layers": "average"}, [1 / 3] * 3),
        ({"layers": "mix", "weights": "[0.5,0,-1]", "gamma": 2}, [1, 0, -2]),
    ],
)
def test_layers_can_be_chosen_or_mixed(
    model: Path, text: Path, tmp_path: Path, expected: list[np.ndarray], options: dict, weights: list[float]
) -> None:
    assert run(model, text, tmp_path / "out.h5", **options) == 0
    with h5py.File(tmp_path / "out.h5") as file:
        for number, layers in enumerate(expected):
            assert_close(file[str(number)][...], np.tensordot(np.array(weights), layers, 1), 3e-6)


def test_compressed_files_several_files_and_standard_input_give_the_same_output(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_parts: None
) -> None:
    first, second = TEXT.encode().split(b"\n", 3)[:3], TEXT.encode().split(b"\n", 3)[3]
    (tmp_path / "1.gz").write_bytes(gzip.compress(b"\n".join(first) + b"\n"))
    (tmp_path / "2.txt").write_bytes(second)
    outputs = [tmp_path / f"{name}.h5" for name in ("whole", "two", "stdin")]
    assert run(model, text, outputs[0]) == 0
    assert run(model, tmp_path / "1.gz", outputs[1], input=tmp_path / "2.txt") == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(TEXT.encode()))))
    assert run(model, Path("-"), outputs[2], workers=2) == 0
    assert len({digest(path) for path in outputs}) == 1


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".h5", ".npz", ".safetensors"])
def test_a_rerun_after_a_kill_at_any_point_writes_the_same_bytes(
    model: Path, text: Path, tmp_path: Path, small_parts: None, suffix: str
) -> None:
    config = EmbedConfig(str(model), [str(text)], str(tmp_path / f"whole{suffix}"))
    embed(config)
    config.output = str(tmp_path / f"killed{suffix}")
    kills = 0
    while killed_at(3 if kills % 2 else 1, lambda: embed(config)) and kills < 40:
        kills += 1
        assert not Path(config.output).exists()
    assert kills > 5
    assert digest(tmp_path / f"killed{suffix}") == digest(tmp_path / f"whole{suffix}")
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"killed{suffix}", "text.txt", f"whole{suffix}"]


@pytest.mark.slow
def test_a_killed_command_ends_its_workers_and_loses_no_finished_part(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    generator = np.random.default_rng(0)
    lines = [" ".join(generator.choice(tiny.SOME_WORDS[2:], 20)) for _ in range(9000)]
    text.write_text("\n".join(lines), "utf-8")
    pairs = [f"checkpoint={model}", f"input={text}", f"output={tmp_path / 'out.npz'}", "workers=2", "threads=1"]
    command = [sys.executable, "-m", "pipeline.cli", "embed", *pairs]
    folder = tmp_path / "out.npz.parts"
    child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not list(folder.glob("part-*.npy")) and child.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -9
    time.sleep(1.0)
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("part-*.npy")}
    assert 0 < len(finished) < 11 and not (tmp_path / "out.npz").exists()
    time.sleep(1.0)
    assert {path for path in folder.glob("part-*.npy")} == set(finished)  # no worker has continued
    embed(EmbedConfig(str(model), [str(text)], str(tmp_path / "out.npz"), threads=1))
    embed(EmbedConfig(str(model), [str(text)], str(tmp_path / "whole.npz"), threads=1))
    assert digest(tmp_path / "out.npz") == digest(tmp_path / "whole.npz")


def test_finished_parts_are_not_made_again(model: Path, text: Path, tmp_path: Path, small_parts: None) -> None:
    config = EmbedConfig(str(model), [str(text)], str(tmp_path / "out.h5"), task=1, tasks=2)
    assert embed(config).pending == 2

    def made() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out.h5.parts").iterdir()}

    first = made()
    assert "part-000001.npy" in first and "part-000000.npy" not in first
    embed(config)
    assert made() == first
    config.task = 0
    assert embed(config).pending == 0
    assert {name: time for name, time in made().items() if name in first} == first


def test_the_tasks_of_a_job_array_make_the_same_file(
    model: Path, text: Path, tmp_path: Path, small_parts: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model, text, tmp_path / "one.h5") == 0
    for task in range(3):
        assert run(model, text, tmp_path / "many.h5", task=task, tasks=3) == 0
        assert not (tmp_path / "many.h5").exists()
    assert "When all tasks have ended: elmo embed" in capsys.readouterr().out
    assert run(model, text, tmp_path / "many.h5") == 0
    assert digest(tmp_path / "many.h5") == digest(tmp_path / "one.h5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"good\nbad \xff\n", "text.txt, line 2 is not UTF-8"),
        (b"good\n\nthe <S> a\n", "text.txt, line 3 holds the word <S>"),
        (b"a\x00b\n", "text.txt, line 1 holds the control character"),
        (b"a " * 100_001, "text.txt, line 1 has 100,001 words"),
        (b"", "has no text"),
    ],
)
def test_bad_text_is_reported_in_one_error_before_anything_is_embedded(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    text.write_bytes(content)
    assert run(model, text, tmp_path / "out.h5") == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.glob("out.h5.parts/*.npy"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "out.txt"}, "must end in one of"),
        ({"layers": "3"}, "must be one of all, top, average, mix, 0, 1, 2"),
        ({"layers": "mix"}, "needs weights=, 3 numbers"),
        ({"layers": "top", "weights": "[1,2,3]"}, "goes with layers=mix"),
        ({"dtype": "float64"}, "float32 or float16"),
        ({"task": 2, "tasks": 2}, "from 0 to tasks - 1"),
        ({"checkpoint": "nowhere"}, "nowhere"),
        ({"output": "no/folder/out.h5"}, "there is no folder"),
    ],
)
def test_wrong_options_give_one_error(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict, message: str
) -> None:
    given = {"checkpoint": model, "input": text, "output": tmp_path / "out.h5", **options}
    assert cli.main(["embed", *(f"{name}={value}" for name, value in given.items())]) == 2
    assert message in capsys.readouterr().err


def test_unfinished_work_with_other_options_and_finished_files_are_not_overwritten(
    model: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], small_parts: None
) -> None:
    output = tmp_path / "out.h5"
    assert run(model, text, output, task=0, tasks=2) == 0
    assert run(model, text, output, layers="top") == 2
    assert "begun with another layer, dtype or precision; repeat" in capsys.readouterr().err
    text.write_bytes(TEXT.encode() + b" more\n")
    assert run(model, text, output) == 2
    assert "begun with another input" in capsys.readouterr().err
    assert run(model, text, output, layers="top", overwrite="true") == 0
    assert run(model, text, output) == 2
    assert "is there already" in capsys.readouterr().err
    assert run(model, text, output, overwrite="true") == 0
    with h5py.File(output) as file:
        assert file["0"].shape == (3, 4, 10) and "more" in json.loads(file["sentence_to_index"][0]).popitem()[0]


def test_raw_text_is_tokenised_and_keys_count_sentences(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("spacy")
    (tmp_path / "raw.txt").write_text("It's late. We go.\n\nBye!\n")
    assert run(model, tmp_path / "raw.txt", tmp_path / "out.npz", tokenize="true") == 0
    index = json.loads(np.load(tmp_path / "out.npz")["sentence_to_index"][0])
    assert index == {"It 's late .": "0", "We go .": "1", "": "2", "Bye !": "3"}


def test_bf16_gives_nearly_the_same_vectors(
    model: Path, text: Path, tmp_path: Path, expected: list[np.ndarray]
) -> None:
    assert run(model, text, tmp_path / "out.npz", precision="bf16-mixed") == 0
    assert 0 < np.abs(np.load(tmp_path / "out.npz")["0"] - expected[0]).max() < 0.2
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_more_parts_than_a_process_may_open_are_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(parts, "_PART_SENTENCES", 1)
    (tmp_path / "text.txt").write_text("the cat\n" * 100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    open_now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 40, hard))
    try:
        assert run(model, tmp_path / "text.txt", tmp_path / f"out{suffix}", overwrite="true") == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_text_that_a_format_cannot_hold_is_refused_before_it_is_embedded(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.apply.embed.vector_files._MOST_TENSORS", 5)
    assert run(model, text, tmp_path / "out.safetensors") == 2
    error = capsys.readouterr().err
    assert "would have 7 sentences, and a .safetensors file at most 5; choose .h5, .npz or .parquet" in error
    assert not list(tmp_path.glob("*.parts/part-*.npy"))


def test_a_disk_without_room_for_the_file_is_named_before_it_is_written(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.apply.embed.vector_files.free_bytes", lambda path: 100)
    assert run(model, text, tmp_path / "out.h5") == 2
    assert "its disk has 0.0 GB free; free some" in capsys.readouterr().err
    assert list(tmp_path.glob("*.parts/part-*.npy")) and not (tmp_path / "out.h5").exists()


@pytest.mark.slow
def test_tasks_that_start_together_make_one_plan(model: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("".join(f"the cat {n} sat\n" for n in range(30_000)))
    command = [sys.executable, "-m", "pipeline.cli", "embed", f"checkpoint={model}", f"input={tmp_path}/text.txt"]
    command += [f"output={tmp_path}/out.npz", "threads=1"]
    tasks = [subprocess.Popen([*command, f"task={task}", "tasks=3"]) for task in range(3)]
    assert [task.wait() for task in tasks] == [0, 0, 0]
    assert subprocess.run(command).returncode == 0 and (tmp_path / "out.npz").exists()
