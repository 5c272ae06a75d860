"""A run's folder with damaged files: status, comparison, curves and export work without a traceback."""

import json
import logging
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.finetune.report import _SCHEMA, _summary, table
from pipeline.train.run_dir.records import read_facts, read_restarts
from pipeline.train.run_dir.tracking import STEP_METRIC, read_metrics
from tests.apply.damage import mutations
from tests.apply.finetuning import finetune_here
from tests.train import runs

RESTART = {"unix_time": 1e9, "job": "7", "restart": 1, "reason": "time limit (SIGUSR1)", "step": 3, "crash": "training"}


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    runs.train_here(dataset, run_dir, "train.max_steps=4", "train.validate_every_steps=2", "checkpoint.every_steps=2")
    (run_dir / "restarts.jsonl").write_text(json.dumps(RESTART) + "\n")
    return run_dir


def damaged(whole: Path, tmp_path: Path, name: str, every: int) -> Iterator[Path]:
    """Yield the folder of the run, each time with one file damaged in another way."""
    run_dir = tmp_path / "run"
    shutil.copytree(whole, run_dir)
    text = (whole / name).read_bytes()
    for data in mutations(text, seed=len(text), every=every):
        (run_dir / name).write_bytes(data)
        yield run_dir


def check_success_or_one_sentence(capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
    """Check that a command succeeds, or fails with one sentence for the user."""
    code, printed = main(list(arguments)), capsys.readouterr().err
    assert code == 0 or (code == 2 and printed.splitlines()[-1].startswith(f"elmo {arguments[0]}: ")), printed


LOOKED_AT = [
    "start.json", "end.json", "metrics.jsonl", "restarts.jsonl", "run.json", "writer.json", "config.yaml",
    "checkpoints/step-00000004.json",
]  # fmt: skip


@pytest.mark.parametrize("name", LOOKED_AT)
def test_status_and_compare_accept_a_run_with_a_damaged_file(
    whole: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ways = (
        damaged_yaml(whole, tmp_path)
        if name == "config.yaml"
        else damaged(whole, tmp_path, name, {"run.json": 24, "start.json": 8}.get(name, 4))
    )
    for number, run_dir in enumerate(ways):
        json_too = ["json=true"] * (number % 2)
        check_success_or_one_sentence(capsys, "status", str(run_dir), *json_too)
        check_success_or_one_sentence(capsys, "compare", str(run_dir), str(whole), *json_too)


def damaged_yaml(whole: Path, tmp_path: Path) -> Iterator[Path]:
    run_dir, chance = tmp_path / "run", random.Random(0)
    shutil.copytree(whole, run_dir)
    text = (whole / "config.yaml").read_bytes()
    flips = []
    for _ in range(30):
        flipped = bytearray(text)
        flipped[chance.randrange(len(text))] ^= 1 << chance.randrange(8)
        flips.append(bytes(flipped))
    laughs = b"a: &a [x, x]\n" + b"".join(b"%c: &%c {p: *%c, q: *%c}\n" % (n + 1, n + 1, n, n) for n in range(97, 121))
    for data in (
        b"",
        b"7",
        b"[1]",
        b"a: [",
        b"? {a: b}\n: c\n",
        b"[" * 3000,
        b"\xff",
        b"a: !x 1",
        laughs,
        text[:200],
        *flips,
    ):
        (run_dir / "config.yaml").write_bytes(data)
        yield run_dir


def test_curves_are_drawn_from_damaged_metrics(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run_dir in damaged(whole, tmp_path, "metrics.jsonl", every=60):
        check_success_or_one_sentence(capsys, "plot", str(run_dir), f"output={tmp_path / 'plot.png'}")


@pytest.mark.parametrize("command", ["status", "compare", "plot"])
@pytest.mark.parametrize("kind", ["a loop of links", "files whose first byte is an I/O error"])
def test_a_run_folder_that_cannot_be_read_is_reported_in_one_sentence(
    command: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    if "loop" in kind:
        run_dir.symlink_to("run")
    else:
        run_dir.mkdir()
        for name in ("metrics.jsonl", "start.json", "config.yaml"):
            (run_dir / name).symlink_to("/proc/self/mem")
    more = {"plot": [f"output={tmp_path / 'plot.html'}"], "compare": [str(run_dir)], "status": []}[command]
    check_success_or_one_sentence(capsys, command, str(run_dir), *more)
    assert not (tmp_path / "plot.html").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json", "checkpoints/step-00000004.json"])
def test_a_model_is_exported_from_a_run_with_a_damaged_file(
    whole: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run_dir in damaged(whole, tmp_path, name, every=30):
        check_success_or_one_sentence(
            capsys, "export", f"checkpoint={run_dir}", f"output={tmp_path / 'out'}", "overwrite=true"
        )


def test_damaged_lines_of_metrics_are_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = json.dumps({STEP_METRIC: 1, "train/loss": 5.0, "val/perplexity": float("nan"), "train/tokens": -3})
    bad = [b"\xff\xfe", b"\0" * 50, b'{"trainer/global_step": 2, "train/loss": "low"}', b'{"train/loss": 2.0}', b"[7]",
           b'{"trainer/global_step": -1, "train/loss": 2.0}', b'{"trainer/global_step": 2, "tr']  # fmt: skip
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*bad, good.encode(), b'{"trainer/global_step": 3, "trai']))
    with caplog.at_level(logging.WARNING):
        assert read_metrics(tmp_path) == {1: {"train/loss": 5.0}}
    # The ninth line is still being written.
    assert len(caplog.records) == 1 and "metrics.jsonl: 7 of 9 lines" in caplog.text


def test_a_long_damaged_file_of_metrics_is_read_in_pieces(tmp_path: Path) -> None:
    with (tmp_path / "metrics.jsonl").open("wb") as file:
        file.truncate(64 << 20)  # one line of NUL bytes
    assert read_metrics(tmp_path) == {}


def test_damaged_restarts_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [json.dumps(RESTART), '{"unix_time": "late"}', "[3]", json.dumps({"reason": "hung"})]
    (tmp_path / "restarts.jsonl").write_text("\n".join(lines) + "\n")
    assert read_restarts(tmp_path) == [RESTART, {"reason": "hung"}]
    assert "2 of 4 lines" in caplog.text


@pytest.fixture(scope="module")
def finetuned(trained: Path, domain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("finetuned") / "run"
    finetune_here(trained, domain, run_dir, "train.max_steps=2")
    return run_dir


def test_the_table_of_a_damaged_record_is_printed_or_left_out(finetuned: Path, tmp_path: Path) -> None:
    path = tmp_path / "finetune.json"
    for data in mutations((finetuned / "finetune.json").read_bytes(), seed=0):
        path.write_bytes(data)
        record = read_facts(path, _SCHEMA)
        if "after" in record:
            assert "fine-tuning" in table(record) and _summary(record)


@pytest.mark.parametrize("cut", [0, 300])
def test_a_fine_tuning_with_a_damaged_record_ends_with_the_figures_that_are_known(
    trained: Path, domain: Path, finetuned: Path, tmp_path: Path, cut: int, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finetuned, tmp_path / "run")
    damaged_record = (finetuned / "finetune.json").read_bytes()[:cut]
    (tmp_path / "run" / "finetune.json").write_bytes(damaged_record)
    finetune_here(trained, domain, tmp_path / "run", "train.max_steps=2")
    message = capfd.readouterr().out
    assert "Perplexity before is not known: finetune.json was lost or damaged" in message and "domain" in message
    assert (tmp_path / "run" / "damaged-finetune.json").read_bytes() == damaged_record
    after = json.loads((finetuned / "finetune.json").read_bytes())["after"]["domain"]
    assert json.loads((tmp_path / "run" / "finetune.json").read_bytes())["after"]["domain"] == after
