"""Runs against a stand-in for wandb's server: online, resumed, alerts; offline pieces uploaded as one run."""

import os
from pathlib import Path

import pytest

from pipeline.apply.watch.wandb_sync import is_synced, offline_pieces
from pipeline.cli import main
from pipeline.train.run_dir.lock import claim
from pipeline.train.run_dir.tracking import family, read_metrics
from tests.train import runs
from tests.train.wandb_server import Run, WandbServer

SETTINGS = ["train.validate_every_steps=2", "wandb.project=elmo-test"]
pytestmark = [pytest.mark.slow]


def only_run(server: WandbServer) -> Run:
    (run,) = server.runs.values()
    return run


def check_history(run: Run, run_dir: Path, steps: list[int]) -> None:
    """Check that the run's own step counts without a gap, and that its metrics equal those of metrics.jsonl."""
    assert [line["_step"] for line in run.history] == list(range(len(run.history)))
    assert sorted({line["trainer/global_step"] for line in run.history}) == steps
    seen: dict[int, dict[str, float]] = {}
    for line in run.history:
        values = {key: value for key, value in line.items() if not key.startswith("_")}
        seen.setdefault(values.pop("trainer/global_step"), {}).update(values)
    known = read_metrics(run_dir)
    assert seen.keys() == known.keys()
    for step in known:
        assert {k: v for k, v in seen[step].items() if k in known[step]} == pytest.approx(known[step])


def test_a_run_that_is_resumed_online_is_one_run(dataset: Path, tmp_path: Path) -> None:
    with WandbServer() as server:
        for last in (3, 5):
            output = runs.run(
                dataset, tmp_path / "run", *SETTINGS, f"train.max_steps={last}", "wandb.mode=auto",
                environment=server.environment | {"HOME": str(tmp_path), "WANDB_TAGS": "one,two"},
            )  # fmt: skip
            assert "offline" not in output
        run = only_run(server)
        check_history(run, tmp_path / "run", [1, 2, 3, 4, 5])
        assert run.project == "elmo-test" and run.fields["displayName"] == "run" and run.exit_codes == [0, 0]
        assert run.fields["groupName"] == family(tmp_path / "run") == f"run-{run.name}"
        assert run.fields["tags"] == ["one", "two"]
        assert run.config["total_steps"]["value"] == 5 and run.config["data"]["value"]["lanes"] == 8
        assert [(alert["title"], alert["severity"]) for alert in server.alerts] == [
            ("pretraining finished", "INFO")
        ] * 2


@pytest.fixture(scope="module")
def in_pieces(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run in three offline pieces: to its end; cut short in steps 5 to 7 as by kill -9; resumed after step 4.

    A real kill -9 would cut the file where wandb last wrote, about every 15 s. Here the file is truncated instead.
    """
    run_dir = tmp_path_factory.mktemp("in_pieces") / "run"
    offline = [*SETTINGS, "wandb.mode=offline", "wandb.log_artifacts=true", "checkpoint.every_steps=2"]
    runs.run(dataset, run_dir, *offline, "train.max_steps=4")
    runs.run(dataset, run_dir, *offline, "train.max_steps=7")
    (log,) = offline_pieces(run_dir)[1].glob("*.wandb")
    os.truncate(log, log.stat().st_size - 200)
    for left in ("step-00000006", "step-00000007"):
        for path in (run_dir / "checkpoints").glob(f"{left}.*"):
            path.unlink()
    (run_dir / "restarts.jsonl").write_text('{"reason": "a stall", "step": 4}\n')
    runs.run(dataset, run_dir, *offline, "train.max_steps=8")
    assert len(offline_pieces(run_dir)) == 3
    return run_dir


def test_offline_pieces_of_a_run_are_uploaded_once_as_one_run(
    in_pieces: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")  # for the trainings; it has no effect on the upload
    monkeypatch.setenv("WANDB_PROJECT", "elsewhere")  # no effect either: the project of the runs comes from an option
    assert main(["sync", str(in_pieces), "dry_run=true"]) == 0
    assert "3 would be uploaded" in capfd.readouterr().out
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        assert main(["sync", str(in_pieces)]) == 0
        printed = capfd.readouterr()
        assert f"3 uploaded: {server.url}" in printed.out and printed.err.count("cut short by a kill") == 1
        run = only_run(server)
        assert run.project == "elmo-test"
        check_history(run, in_pieces, list(range(1, 9)))
        steps = [line["trainer/global_step"] for line in run.history]
        assert steps[-1] == 8 and steps.count(5) > 1, "steps 5 to 7 were done twice"
        assert run.exit_codes[-1] == 0
        alerts = [(alert["title"], alert["text"]) for alert in server.alerts]
        assert ("training restarted", "restart 1: a stall") in alerts
        kinds = [artifact["input"]["artifactTypeName"] for artifact in server.artifacts]
        assert kinds.count("dataset") == 3 and kinds.count("model") >= 4
        assert main(["sync", str(in_pieces)]) == 0
        assert capfd.readouterr().out == "3 of 3 pieces were uploaded before\n"
        assert len(run.history) == len(steps)


def test_a_piece_that_is_being_written_is_not_uploaded(in_pieces: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with claim(in_pieces):
        assert main(["sync", str(in_pieces), "dry_run=true"]) == 0
    assert "is being written: sync again when the run has stopped" in capsys.readouterr().out


def test_without_a_server_the_pieces_remain_to_be_uploaded(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.run(dataset, tmp_path / "run", *SETTINGS, "train.max_steps=1", "wandb.mode=offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert main(["sync", str(tmp_path / "run")]) == 2
    assert "http://127.0.0.1:9 cannot be reached (" in capsys.readouterr().err
    (piece,) = offline_pieces(tmp_path / "run")
    assert not is_synced(piece)


def test_a_folder_without_wandb_files_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sync", str(tmp_path)]) == 2
    assert "has no wandb files to upload" in capsys.readouterr().err
