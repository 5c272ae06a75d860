"""`elmo dashboard`: the view shows metrics that runs really log; it is saved to a stand-in of wandb's server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.apply.watch.dashboard import SECTIONS, build
from pipeline.cli import main
from pipeline.config.load import load
from pipeline.config.watch import DashboardConfig
from pipeline.train.run_dir.tracking import STEP_METRIC, read_metrics
from tests.train import runs
from tests.train.wandb_server import WandbServer

pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed; extra `dashboard`")


def panels(specification: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for section in specification["section"]["panelBankConfig"]["sections"]:
        yield from (panel["config"] for panel in section["panels"])


def test_every_panel_shows_metrics_that_runs_log(dataset: Path, tmp_path: Path) -> None:
    settings = ["train.max_steps=2", "train.norms_every_steps=1", "train.validate_every_steps=1"]
    runs.train_here(dataset, tmp_path / "run", *settings)
    logged = {name for values in read_metrics(tmp_path / "run").values() for name in values} | {STEP_METRIC}
    shown = [panel for panels in SECTIONS.values() for panel in panels]
    own = [panel for panel in shown if not (panel.regex or panel.metrics[0]).startswith("system/")]
    assert {metric for panel in own for metric in panel.metrics} <= logged
    assert {panel.against for panel in own} <= logged
    assert all(any(re.fullmatch(panel.regex, name) for name in logged) for panel in own if panel.regex)
    for name in ("val/perplexity", "speed/tokens_per_second", "train/gradient_norm", "speed/data_wait_share"):
        assert any(name in panel.metrics for panel in own)


def test_the_view_is_written_without_a_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "view.json"
    assert main(["dashboard", f"output={output}"]) == 0
    assert "nothing was sent" in capsys.readouterr().out
    found = list(panels(json.loads(output.read_text())))
    assert len(found) == sum(len(panels) for panels in SECTIONS.values())
    assert {"val/perplexity"} in [set(panel["metrics"]) for panel in found]
    assert {panel["xAxis"] for panel in found} >= {"trainer/global_step", "train/tokens"}
    norms = [panel for panel in found if panel.get("useMetricRegex")]
    assert "update_ratio/.*" in [panel["metricRegex"] for panel in norms]


def test_the_view_is_saved_in_the_users_project(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        assert main(["dashboard", "project=poems", "entity=team", "name=Mine", "group_runs=true"]) == 0
        (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("team", "poems", "Mine")
    assert len(list(panels(json.loads(view["spec"])))) == sum(len(panels) for panels in SECTIONS.values())
    assert "team/poems?nw=" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "variable", "project", "entity"),
    [
        (["project=option", "entity=option"], "variable", "option", "option"),
        ([], "variable", "variable", "variable"),
        ([], "", "elmo", ""),
    ],
)
def test_an_option_overrides_the_environment_which_overrides_the_default(
    arguments: list[str], variable: str, project: str, entity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", variable)
    monkeypatch.setenv("WANDB_ENTITY", variable)
    workspace = build(load(DashboardConfig, [*arguments, "output=view.json"]))
    assert (workspace.project, workspace.entity) == (project, entity)


def test_without_a_server_the_command_fails_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert main(["dashboard"]) == 2
    assert "elmo dashboard: " in capsys.readouterr().err
