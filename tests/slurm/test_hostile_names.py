"""Folders, arguments and records with unusual names and contents, without a cluster."""

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.slurm.training import ROOT

HOSTILE = "a b;touch victim; $(touch victim) `touch victim` 100% 'x' \"y\" *"


@pytest.fixture
def requeue(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    spec = importlib.util.spec_from_file_location("requeue", ROOT / "slurm" / "requeue.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pin(folder: Path, *arguments: str) -> tuple[Path, list[str]]:
    """Pin the code; return its folder, and the arguments as slurm/pretrain.sbatch reads them back."""
    code = folder / HOSTILE / "code"
    subprocess.run(["bash", ROOT / "slurm" / "pin.sh", ROOT, code, *arguments], cwd=folder, check=True)
    script = (ROOT / "slurm" / "pretrain.sbatch").read_text()
    (reader,) = [line for line in script.splitlines() if line.startswith("mapfile")]
    shown = ["bash", "-c", f"code=$1; {reader}; printf '%s\\0' \"${{arguments[@]}}\"", "bash", code]
    return code, subprocess.run(shown, check=True, capture_output=True, text=True).stdout.split("\0")[:-1]


def test_arguments_with_any_content_are_read_back_unchanged(tmp_path: Path) -> None:
    given = [f"run.name={HOSTILE}", "run.dir=two\nlines", "", "data.path=-rf"]
    _, read = pin(tmp_path, *given)
    assert read == given
    assert not list(tmp_path.rglob("victim"))


def test_config_files_with_the_same_name_are_both_pinned(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.yaml").write_text(name)
    _, read = pin(tmp_path, "a/x.yaml", "b/x.yaml")
    assert [Path(path).read_text() for path in read] == ["a", "b"]


@pytest.mark.parametrize("script", ["submit.sh", "prep.sh"])
def test_folders_with_unusual_names_reach_no_shell(script: str, tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "elmo"):
        (programs / name).write_text("#!/bin/sh\necho 1\n")
        (programs / name).chmod(0o755)
    arguments = ["input=x", f"output={folder}"] if script == "prep.sh" else [f"run.dir={folder}", "data.path=d"]
    command = ["bash", ROOT / "slurm" / script, *arguments]
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert list(tmp_path.glob("*/**/REVISION")) and not list(tmp_path.rglob("victim"))


@pytest.mark.parametrize("line", ["[" * 9999, "{}", '{"job": [], "restart": 1, "step": 3}', '{"job": "7"}', "\udcff{}"])
def test_a_damaged_line_of_restarts_is_ignored(line: str, requeue: ModuleType, tmp_path: Path) -> None:
    good = {"job": "7", "restart": 1, "reason": "crash", "step": 0, "crash": "training"}
    text = f"{json.dumps(good)}\n{line}\n"
    (tmp_path / "restarts.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert requeue.restarts(tmp_path) == [good]


@pytest.mark.parametrize("text", ["", "[1]", '{"faults": 3}', '{"faults": ["x", 1], "signal": {}}', "[" * 9999, '"ab"'])
def test_a_damaged_node_check_counts_as_none(text: str, requeue: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text(text)
    assert requeue.read_node_check(tmp_path / "node.json") is None


@pytest.mark.parametrize("text", ['{"slurm": 3}', '{"slurm": {"restart_count": "x"}}', '{"how": [], "why": {}}', "[]"])
def test_a_damaged_end_record_counts_as_none(text: str, requeue: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "end.json").write_text(text)
    assert requeue.end_of_this_start(tmp_path) == {}


def test_a_file_that_is_no_record_does_not_count_as_a_step(requeue: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in ("step-00000007.json", "step-x.json", "step-.json", "step-²²²²²²²²².json"):
        (tmp_path / "checkpoints" / name).touch()
    assert requeue.newest_step(tmp_path) == 7
