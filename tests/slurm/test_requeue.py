"""What slurm/requeue.py decides and slurm/pin.sh copies, without a Slurm; tests/slurm/ordeals.py has a real one."""

import json
import runpy
import subprocess
from pathlib import Path
from typing import Any

import pytest

from data_prep.dataset.files import DataError, UnreachableError
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.train.cluster import preflight

SCRIPT = Path(__file__).resolve().parents[2] / "slurm" / "requeue.py"


@pytest.fixture
def requeue(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return the names of the script, as for job 7, with `requeue` that returns the reason."""
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    names = runpy.run_path(str(SCRIPT))
    shared = names["after_crash"].__globals__
    shared["requeue"] = lambda run_dir, reason, **more: reason
    return shared


@pytest.mark.parametrize(("jobs", "ends"), [(["7", "7"], True), (["6", "6"], False), (["6", "7"], False)])
def test_only_crashes_of_the_same_job_count(
    requeue: dict[str, Any], tmp_path: Path, jobs: list[str], ends: bool
) -> None:
    lines = [{"job": job, "restart": n, "step": 0, "crash": "training"} for n, job in enumerate(jobs)]
    (tmp_path / "restarts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert requeue["after_crash"](tmp_path, "crash, code 1") == (1 if ends else "crash, code 1")


def test_after_a_signal_during_preflight_no_node_is_excluded(
    requeue: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n1")
    check = tmp_path / "preflight" / "7.0" / "n1.json"
    check.parent.mkdir(parents=True)
    check.write_text(json.dumps({"faults": [], "signal": "SIGTERM"}))
    requeue |= {"run": lambda *command: "n1\n", "is_current_start": lambda: True}
    assert requeue["exclude_bad_nodes"](tmp_path, 75) == "preemption (SIGTERM), before training"


@pytest.mark.parametrize(
    ("may_pass", "code", "result"),
    [
        ((True, True), 1, "no node could read the dataset"),
        ((True, None), 1, "no node could read the dataset"),
        ((True, False), 1, 1),
        ((None, None), 1, "no node answered"),
        ((None, None), 2, 1),  # the config is refused
    ],
)
def test_an_outage_that_all_nodes_see_is_a_crash_and_ends_no_job(
    requeue: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    may_pass: tuple[bool | None, ...],
    code: int,
    result: str | int,
) -> None:
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    checks = tmp_path / "preflight" / "7.0"
    checks.mkdir(parents=True)
    for number, value in enumerate(may_pass, start=1):
        if value is not None:
            check = {"faults": ["it cannot read the dataset"], "may_pass": value, "signal": None}
            (checks / f"n{number}.json").write_text(json.dumps(check))
    requeue |= {"run": lambda *command: "n1\nn2\n", "is_current_start": lambda: True}
    assert requeue["exclude_bad_nodes"](tmp_path, code) == result


@pytest.mark.parametrize(("error", "may_pass"), [(UnreachableError("e"), True), (DataError("e"), False)])
def test_preflight_tells_an_outage_from_a_damaged_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: DataError, may_pass: bool
) -> None:
    def cannot_be_opened(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(preflight, "open_dataset", cannot_be_opened)
    config = load(PretrainConfig, ["data.path=d", f"run.dir={tmp_path}", "train.accelerator=cpu"])
    check = preflight.preflight(config)
    (written,) = tmp_path.glob("preflight/*/*.json")
    assert check.faults == ["it cannot read the dataset: e"]
    assert json.loads(written.read_text()) == {"faults": check.faults, "may_pass": may_pass, "signal": None}


@pytest.mark.parametrize("name", ["my.yaml", "my.yml"])
def test_configs_of_both_endings_are_copied_at_submission(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("run: {seed: 3}\n")
    command = ["bash", str(SCRIPT.with_name("pin.sh")), str(SCRIPT.parents[1]), "code", name, "data.path=d"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    copied, other = (tmp_path / "code" / "ARGUMENTS").read_bytes().decode().split("\0")[:2]
    assert Path(copied).read_text() == "run: {seed: 3}\n" and tmp_path / "code" in Path(copied).parents
    assert other == "data.path=d"
