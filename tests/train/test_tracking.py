"""What a run writes into wandb's files and into metrics.jsonl, read back."""

import json
import os
from pathlib import Path

import psutil
import pytest

from pipeline.config.schema import WandbConfig
from pipeline.train.run_dir.tracking import Tracker, family, read_metrics
from tests import processes
from tests.train import runs, wandb_files


def history(piece: Path) -> dict[int, dict[str, float]]:
    steps: dict[int, dict[str, float]] = {}
    for record in wandb_files.records(piece):
        if record["type"] == "history":
            item = {k: v for k, v in record["history"]["item"].items() if not k.startswith("_")}
            steps.setdefault(item.pop("trainer/global_step"), {}).update(item)
    return steps


def of_type(piece: Path, kind: str) -> list[dict]:
    return [record[kind] for record in wandb_files.records(piece) if record["type"] == kind]


def test_wandbs_file_holds_the_metrics_against_the_global_step(uninterrupted: Path) -> None:
    (piece,) = wandb_files.pieces(uninterrupted)
    logged = history(piece)
    assert logged == read_metrics(uninterrupted)
    assert list(logged) == list(range(1, 121))
    assert logged[120].keys() == {
        "train/loss", "train/sampled_perplexity", "train/gradient_norm", "train/learning_rate", "train/bad_steps",
        "train/tokens", "train/epoch", "speed/tokens_per_second", "speed/data_wait_share", "speed/pause_share",
        "speed/eta_hours", "memory/peak_gib", "val/perplexity", "val/perplexity_forward", "val/perplexity_backward",
        "val/tokens",
    }  # fmt: skip
    assert {step for step in logged if "val/perplexity" in logged[step]} == set(range(10, 121, 10))
    metrics = of_type(piece, "metric")
    assert {"glob_name": "*", "step_metric": "trainer/global_step"}.items() <= metrics[-1].items()
    assert {"name": "train/tokens", "step_metric": "trainer/global_step"}.items() <= metrics[-2].items()


def test_wandbs_file_holds_the_config_and_how_the_run_ended(uninterrupted: Path) -> None:
    (piece,) = wandb_files.pieces(uninterrupted)
    (run,) = of_type(piece, "run")
    config = run["config"]["update"]
    assert config["data"]["lanes"] == 8 and config["total_steps"] == 120 and len(config["dataset_fingerprint"]) == 64
    assert config["parameters"] > 0 and "git_revision" in config
    assert [alert["title"] for alert in of_type(piece, "alert")] == ["pretraining finished"]
    assert wandb_files.exit_codes(uninterrupted) == [0]


def test_the_metrics_of_a_run_are_plausible(uninterrupted: Path) -> None:
    curve = read_metrics(uninterrupted)
    assert curve[60]["train/tokens"] == 60 * 80 and curve[55]["train/epoch"] == pytest.approx(1)
    assert curve[120]["speed/eta_hours"] == 0 < curve[60]["speed/eta_hours"]
    assert all(0 <= values["speed/data_wait_share"] <= 1 for values in curve.values())
    assert curve[1]["speed/pause_share"] == 0 and all(0 < curve[step]["speed/pause_share"] < 1 for step in (60, 120))
    assert curve[120]["val/perplexity"] < curve[10]["val/perplexity"]
    both = (curve[120]["val/perplexity_forward"] * curve[120]["val/perplexity_backward"]) ** 0.5
    assert curve[120]["val/perplexity"] == pytest.approx(both)


def test_a_resumed_run_is_the_same_run_in_wandb(dataset: Path, tmp_path: Path) -> None:
    for steps in (3, 5):
        runs.train_here(dataset, tmp_path / "run", f"train.max_steps={steps}", "wandb.mode=offline")
    pieces = wandb_files.pieces(tmp_path / "run")
    ids = [of_type(piece, "run")[0]["run_id"] for piece in pieces]
    assert len(pieces) == 2 and ids[0] == ids[1]
    assert [list(history(piece)) for piece in pieces] == [[1, 2, 3], [4, 5]]
    assert wandb_files.exit_codes(tmp_path / "run") == [0, 0]


TRACK = """
import sys
from pathlib import Path
from pipeline.config.schema import WandbConfig
from pipeline.train.run_dir.tracking import Tracker
given = sys.argv[2] or None
options = dict.fromkeys(("project", "entity", "group", "notes"), given)
config = WandbConfig(mode="offline", tags=[given] if given else [], **options)
Tracker(Path(sys.argv[1]), given or "", config, {}).finish()
"""


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [("option", "variable", "option"), ("option", "", "option"), (None, "variable", "variable"), (None, "", None)],
)
def test_an_option_overrides_the_environment_which_overrides_the_default(
    given: str | None, environment: str, expected: str | None, tmp_path: Path
) -> None:
    """Run it in a process of its own, because wandb reads the environment once."""
    run_dir = tmp_path / "folder"
    run_dir.mkdir()
    names = ("PROJECT", "ENTITY", "RUN_GROUP", "NOTES", "NAME") + ("TAGS",) * bool(environment)
    variables = {f"WANDB_{name}": environment for name in names}
    code = ["-c", TRACK, str(run_dir), given or ""]
    process = processes.Process(*code, log=tmp_path / "log", environment=variables, forked=True)
    assert process.wait() == 0, process.output()
    (piece,) = wandb_files.pieces(run_dir)
    (run,) = of_type(piece, "run")
    defaults = {"project": "elmo", "group": family(run_dir), "name": "folder"}
    found = {"name": run["display_name"], "group": run["run_group"]} | {
        key: run.get(key) for key in ("project", "entity", "notes")
    }
    assert found == {key: expected or defaults.get(key) for key in found}
    assert run.get("tags", []) == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("name", "value"), [("TAGS", ""), ("MODE", "sometimes"), ("INIT_TIMEOUT", "soon"), ("TAGS", "x" * 65)]
)
def test_a_variable_that_wandb_refuses_is_reported_in_one_sentence(
    name: str, value: str, dataset: Path, tmp_path: Path
) -> None:
    settings = runs.arguments(dataset, tmp_path / "run", "train.max_steps=1", "wandb.mode=auto")
    process = processes.Process(
        "pretrain", *settings, log=tmp_path / "log", environment={f"WANDB_{name}": value}, forked=True
    )
    assert process.wait() == 2
    (message,) = [line for line in process.output().splitlines() if line.startswith("elmo pretrain: ")]
    assert "wandb refuses a setting" in message and "Traceback" not in process.output()


def test_the_wandb_mode_is_taken_from_the_option_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for number, mode in enumerate(("auto", "offline")):
        (tmp_path / mode).mkdir()
        Tracker(tmp_path / mode, "", WandbConfig(mode=mode), {}).finish()
        assert len(wandb_files.pieces(tmp_path / mode)) == number


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_line_cut_short_by_a_kill_does_not_damage_the_next(tmp_path: Path, cut: int) -> None:
    Tracker(tmp_path, "run", WandbConfig(mode="disabled"), {}).log({"train/loss": 2.0, "train/gradient_norm": 1.0}, 1)
    path = tmp_path / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - cut)
    again = Tracker(tmp_path, "run", WandbConfig(mode="disabled"), {})
    again.log({"train/loss": 3.0, "train/gradient_norm": None}, 2)
    again.log({"train/loss": 4.0}, 3)
    assert {step: values["train/loss"] for step, values in read_metrics(tmp_path).items() if step > 1} == {2: 3, 3: 4}
    assert (1 in read_metrics(tmp_path)) == (cut == 1)  # only the end of the line was lost


def test_a_step_repeated_after_a_kill_counts_once(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, "run", WandbConfig(mode="disabled"), {})
    for step, loss in ((1, 5.0), (2, 4.0), (3, 3.5), (2, 4.0), (3, 3.25)):
        tracker.log({"train/loss": loss}, step)
    assert read_metrics(tmp_path) == {1: {"train/loss": 5.0}, 2: {"train/loss": 4.0}, 3: {"train/loss": 3.25}}
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 5
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert all("trainer/global_step" in json.loads(line) for line in lines)


NOWHERE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_INIT_TIMEOUT": "5"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "environment", "message"),
    [
        ("auto", {}, None),  # no key: offline without a message
        ("online", {}, "tracked offline"),
        ("online", {"WANDB_API_KEY": "0" * 40}, "tracked offline"),
    ],
    ids=["auto without a key", "online without a key", "online without a network"],
)
def test_without_key_or_network_a_run_is_tracked_offline(
    dataset: Path, tmp_path: Path, mode: str, environment: dict[str, str], message: str | None
) -> None:
    home = {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    settings = ["train.max_steps=2", f"wandb.mode={mode}"]
    output = runs.run(dataset, tmp_path / "run", *settings, environment=NOWHERE | environment | home)
    assert ("tracked offline" in output) == (message is not None)
    assert list(history(wandb_files.pieces(tmp_path / "run")[-1])) == [1, 2]
    assert f"`elmo sync {tmp_path / 'run'}`" in output


@pytest.mark.slow
def test_training_goes_on_when_wandb_s_own_process_is_killed(dataset: Path, tmp_path: Path) -> None:
    """Signals to a terminal or a job do not reach that process, which has its own session; the OOM killer does."""
    settings = ["wandb.mode=offline", "train.epochs=1000", "train.max_steps=120", "train.log_every_steps=1"]
    process = runs.start(dataset, tmp_path / "run", *settings, forked=False)
    assert process.wait_until(lambda: runs.last_step(tmp_path / "run") >= 3)
    of_wandb = [p for p in psutil.Process(process.popen.pid).children(recursive=True) if "wandb-core" in p.name()]
    assert of_wandb
    for one in of_wandb:
        one.kill()
    assert process.wait() == 0, process.output()
    assert process.output().count("NO WANDB from here on") == 1
    assert runs.saved_steps(tmp_path / "run")[-1] == 120
    assert list(read_metrics(tmp_path / "run")) == list(range(1, 121))
