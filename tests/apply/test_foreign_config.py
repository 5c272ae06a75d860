"""A model that others wrote: its config is data, and no part of the environment gets into anything made from it."""

import json
from pathlib import Path

import pytest

from pipeline.apply.load import load_trained
from pipeline.cli import main

SECRET = "a-secret-of-the-environment"


def test_a_model_cannot_read_the_environment(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET", SECRET)
    foreign, again = tmp_path / "foreign", tmp_path / "again"
    assert main(["export", f"checkpoint={trained}", f"output={foreign}"]) == 0
    path = foreign / "config.json"
    described = json.loads(path.read_text())
    asked = "${oc.env:SECRET}"
    described["training"]["run"]["name"] = asked
    path.write_text(json.dumps(described))
    assert load_trained(str(foreign)).config.run.name == asked
    assert main(["export", f"checkpoint={foreign}", f"output={again}"]) == 0
    assert json.loads((again / "config.json").read_text())["training"]["run"]["name"] == asked
    for file in again.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()
    text = tmp_path / "text.txt"
    text.write_text("w1 w2\n")
    assert main(["embed", f"checkpoint={foreign}", f"input={text}", f"output={tmp_path / 'out.npz'}"]) == 0
    assert SECRET not in "".join(capfd.readouterr())


def test_a_model_whose_config_refers_to_the_environment_for_a_number_is_refused(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAYERS", "2")
    foreign = tmp_path / "foreign"
    assert main(["export", f"checkpoint={trained}", f"output={foreign}"]) == 0
    path = foreign / "config.json"
    described = json.loads(path.read_text())
    described["model"]["num_layers"] = "${oc.env:LAYERS}"
    described["format_version"] = described.pop("model_sha256") and 1  # version 1 has no hash of its settings
    path.write_text(json.dumps(described))
    capfd.readouterr()
    assert main(["embed", f"checkpoint={foreign}", "input=a.txt", f"output={tmp_path / 'out.npz'}"]) == 2
    err = capfd.readouterr().err
    assert "num_layers" in err and err.count("\n") == 1
