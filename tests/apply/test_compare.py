"""`elmo compare` shows the differences between real runs, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.apply.watch.compare import differences, final_figures, read_settings
from pipeline.cli import main
from pipeline.train.run_dir.tracking import read_metrics
from tests.train import runs


@pytest.fixture(scope="module")
def pair(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Train two runs that differ in learning rate and clipping; the second is longer."""
    folder = tmp_path_factory.mktemp("pair")
    settings = (["train.max_steps=4"], ["train.max_steps=6", "optimizer.lr=0.1", "optimizer.clip_norm=null"])
    for name, own in zip(("first", "second"), settings, strict=True):
        runs.train_here(dataset, folder / name, "train.validate_every_steps=2", *own)
    return [folder / "first", folder / "second"]


def compare(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main(["compare", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_only_settings_that_differ_are_shown(pair: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(compare(capsys, *pair, "json=true"))["differences"]
    assert found == {
        "optimizer.lr": {"first": 0.2, "second": 0.1},
        "optimizer.clip_norm": {"first": 10.0, "second": None},
        "train.max_steps": {"first": 4, "second": 6},
        "total_steps": {"first": 4, "second": 6},
    }


def test_the_final_figures_are_those_of_the_last_step(pair: list[Path]) -> None:
    figures = final_figures(pair[1])
    metrics = read_metrics(pair[1])
    assert figures["step"] == figures["last checkpoint"] == 6 and figures["train/tokens"] == 6 * 80
    assert figures["val/perplexity"] == metrics[6]["val/perplexity"]
    best = min((values["val/perplexity"], step) for step, values in metrics.items() if "val/perplexity" in values)
    assert (figures["best val/perplexity"], figures["at step"]) == best
    assert figures["state"] == "finished" and figures["bad steps"] == 0
    assert float(figures["mean tokens/s"]) > 0


def test_a_run_that_was_killed_is_called_so(pair: list[Path], tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(pair[0], tmp_path / "run"))
    (run_dir / "end.json").unlink()
    start = json.loads((run_dir / "start.json").read_text())
    (run_dir / "start.json").write_text(json.dumps(start | {"total_steps": 100}))
    assert final_figures(run_dir)["state"] == "killed"


def test_the_table_has_one_column_for_each_run(pair: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    lines = compare(capsys, *pair).splitlines()
    assert lines[1].split() == ["first", "second"]
    assert ["optimizer.lr", "0.2", "0.1"] in [line.split() for line in lines]
    assert ["optimizer.clip_norm", "10", "-"] in [line.split() for line in lines]
    assert ["step", "4", "6"] in [line.split() for line in lines]


def test_a_run_does_not_differ_from_itself(pair: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(capsys, pair[0], pair[0]).startswith("No setting differs\n")


def test_a_setting_that_one_run_lacks_is_a_difference() -> None:
    settings = {"old": {"a": 1}, "new": {"a": 1, "b": {"c": 2}}}
    assert differences(settings) == {"b": {"old": None, "new": {"c": 2}}}


def test_settings_are_read_by_dotted_name(pair: list[Path]) -> None:
    settings = read_settings(pair[0])
    assert settings["data.lanes"] == 8 and settings["model.filters"] == [[1, 8], [2, 16], [3, 16]]
    assert len(settings["dataset_fingerprint"]) == 64


def test_folders_that_cannot_be_compared_are_named(
    pair: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(pair[0])]) == 2
    assert "takes 2 run folders or more" in capsys.readouterr().err
    assert main(["compare", str(pair[0]), str(tmp_path)]) == 2
    assert "it holds no config.yaml" in capsys.readouterr().err
