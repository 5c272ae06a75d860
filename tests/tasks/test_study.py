"""`elmo study` does the missing runs of a grid after any interruption, and shows them in one table."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline import cli
from pipeline.config.load import load
from pipeline.config.tasks import TASKS, StudyConfig, task_schema
from pipeline.tasks.contents import contents_of
from pipeline.tasks.study import StudyTable, plan_study
from pipeline.tasks.training.settings import settings_of_scores
from tests.pages import ROOT
from tests.tasks.studies import write_study


@pytest.mark.slow
def test_a_grid_is_run_once_and_shown_in_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = write_study(tmp_path)
    assert cli.main(["study", *arguments]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:3] for line in lines[1:]] == [["ner", "placement=none", "2"], ["ner", "placement=default", "2"]]
    with (tmp_path / "study" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["elmo.placement"], row["run.seed"]) for row in rows] == [
        ("none", "1"), ("none", "2"), ("default", "1"), ("default", "2"),
    ]  # fmt: skip
    assert all(0 < float(row["input/layer1"]) < 1 for row in rows[2:]) and rows[0]["input/layer1"] == ""
    results = {path: path.stat().st_mtime_ns for path in tmp_path.glob("study/ner/*/result.json")}
    assert len(results) == 4
    assert cli.main(["study", *arguments]) == 0  # nothing is left to do
    assert {path: path.stat().st_mtime_ns for path in results} == results
    capsys.readouterr()
    (tmp_path / "more.yaml").write_text("settings: {training: {max_epochs: 3}}")
    assert cli.main(["study", arguments[0], str(tmp_path / "more.yaml"), *arguments[1:]]) == 2
    assert "has results of other settings (training.max_epochs: 2 there, 3 now)" in capsys.readouterr().err
    assert cli.main(["report", str(tmp_path / "study")]) == 0
    page = (tmp_path / "study" / "report" / "report.html").read_text("utf-8")
    assert "Table 1" in page and "with ELMo" in page and "Learned weights" in page
    (tmp_path / "one.yaml").write_text("grid: {run.seed: [1]}")  # beside the placements
    assert cli.main(["study", arguments[0], str(tmp_path / "one.yaml"), *arguments[1:]]) == 0
    one_seed = json.loads((tmp_path / "study" / "results.json").read_text())
    assert len(one_seed) == 4 and [record["run.seed"] for record in one_seed] == [1, 1, 2, 2], "the others are kept"
    results.popitem()[0].unlink()
    assert cli.main(["study", arguments[0], str(tmp_path / "one.yaml"), *arguments[1:]]) == 0
    assert len(json.loads((tmp_path / "study" / "results.json").read_text())) == 3


@pytest.mark.slow
def test_a_stopped_study_resumes_its_runs(tmp_path: Path) -> None:
    arguments = write_study(tmp_path, epochs=400)
    with subprocess.Popen([sys.executable, "-m", "pipeline.cli", "study", *arguments], text=True) as study:
        while not list(tmp_path.glob("study/ner/*/last.ckpt")) and study.poll() is None:
            pass
        study.send_signal(signal.SIGTERM)
    assert study.returncode == 75
    assert not list(tmp_path.glob("study/ner/*/result.json"))
    (log,) = {path.read_text().strip().splitlines()[-1] for path in tmp_path.glob("study/ner/*none,seed=1/log.txt")}
    assert log.startswith("stopped by SIGTERM at step ") and log.endswith("run the same command again to resume")


@pytest.mark.slow
def test_a_killed_study_leaves_the_results_of_the_runs_that_were_done(tmp_path: Path) -> None:
    arguments = [*write_study(tmp_path, epochs=3), "processes=1"]
    with subprocess.Popen([sys.executable, "-m", "pipeline.cli", "study", *arguments], text=True) as study:
        while not list(tmp_path.glob("study/ner/*none,seed=2/*.ckpt")) and study.poll() is None:
            pass
        study.kill()
    (record,) = json.loads((tmp_path / "study" / "results.json").read_text())
    assert record["elmo.placement"] == "none" and record["run.seed"] == 1


def test_results_of_another_study_are_reused_where_settings_and_files_are_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = write_study(tmp_path)
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "grid: {elmo.placement: [input], run.seed: [1, 2]}"
    )  # the place that the other study has by default
    (tmp_path / "settings.yaml").write_text(
        yaml.safe_dump(yaml.safe_load((tmp_path / "study.yaml").read_text())["settings"])
    )
    config = load(StudyConfig, arguments)
    for number, run in enumerate(plan_study(config)):
        options = run.arguments(config, tmp_path / "settings.yaml")[1:]
        wanted = load(task_schema("ner"), options, variant="ner", variants=TASKS)
        about = {"settings": settings_of_scores(wanted), "contents": contents_of(wanted)}
        record = {"task": "ner", **about, "main": "f1", "scores": {"dev": {"f1": 50.0 + number}},
                  "learned": {}, "best_step": 3, "steps": 4, "seconds": 5.0}  # fmt: skip
        run.folder.mkdir(parents=True)
        (run.folder / "result.json").write_text(json.dumps(record))
    again = [arguments[0], str(grid), f"dir={tmp_path / 'again'}", f"reuse={tmp_path / 'study'}"]
    assert cli.main(["study", *again]) == 0
    records = json.loads((tmp_path / "again" / "results.json").read_text())
    assert [record["dev/f1"] for record in records] == [52.0, 53.0]  # the runs without ELMo have other settings
    log = (tmp_path / "again" / "ner" / "placement=input,seed=1" / "log.txt").read_text()
    assert str(tmp_path / "study" / "ner" / "placement=default,seed=1") in log
    with (tmp_path / "dev.conll").open("a") as file:
        file.write("New O\n\n")
    assert cli.main(["study", *again]) == 2
    assert "has results of other settings (content of dev)" in capsys.readouterr().err


def test_tasks_can_be_given_with_commas() -> None:
    assert load(StudyConfig, ["tasks=ner,pos"]).tasks == ["ner", "pos"]


@pytest.mark.parametrize(
    ("name", "runs", "some"),
    [
        ("tasks", 7 * 2 * 3, "ner/placement=none,seed=1"),
        ("layers", 3 * 4 * 3, "squad/layers=top,seed=2"),
        ("placement", 3 * 3 * 3, "snli/placement=both,seed=3"),
        ("sample_efficiency", 2 * 5 * 2 * 3, "srl/share=0.01,max_epochs=60,patience=null,placement=default,seed=1"),
    ],
)
def test_a_shipped_study_has_the_right_runs_with_valid_options(
    name: str, runs: int, some: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = load(StudyConfig, [f"configs/studies/{name}.yaml", f"dir={tmp_path}"])
    planned = plan_study(config)
    assert len({run.folder for run in planned}) == len(planned) == runs
    assert tmp_path / some in [run.folder for run in planned]
    (tmp_path / "settings.yaml").write_text("{}\n")
    for run in planned:
        found = load(task_schema(run.task), run.arguments(config, tmp_path / "settings.yaml")[1:], variant=run.task,
                     variants=TASKS)  # fmt: skip
        values = {"elmo.layers": found.elmo.layers, "elmo.l2": found.elmo.l2, "training.share": found.training.share}
        assert all(value == values[name] for name, value in run.changes if name in values)
    shares = [plan_study(load(StudyConfig, [f"configs/studies/{name}.yaml", f"part={n}", "parts=5"])) for n in range(5)]
    assert all(len(of) == runs for of in shares)  # parts divide the runs to do, not the table


def test_a_section_in_a_grid_sets_only_its_own_options(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("tasks: [ner]\ngrid: {elmo: [{placement: none}, {layers: top, l2: 1}]}\n")
    one, two = plan_study(load(StudyConfig, [str(tmp_path / "a.yaml")]))
    assert one.changes == (("elmo.placement", "none"),) and two.folder.name == "layers=top,l2=1"
    assert two.changes == (("elmo.layers", "top"), ("elmo.l2", 1))


def test_a_study_plans_one_run_for_each_point_of_the_grid(tmp_path: Path) -> None:
    runs = plan_study(load(StudyConfig, write_study(tmp_path)))
    assert [run.folder.name for run in runs] == [
        "placement=none,seed=1", "placement=none,seed=2", "placement=default,seed=1", "placement=default,seed=2",
    ]  # fmt: skip
    assert str(StudyTable(runs)).endswith("4 of 4 runs are missing")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: []", "tasks= is missing"),
        ("tasks: [nerd]", "there is no task 'nerd'"),
        ("tasks: [ner]\ngrid: {run.seed: 3}", "grid: run.seed needs a list of values"),
        ("tasks: [ner]\ngrid: {run.sed: [3]}", "there is no key run.sed; did you mean run.seed?"),
        ("tasks: [ner]\nsettings: {words: {dims: 3}}", "dims"),
        ("tasks: [ner]\nsettings: {ner: 3}", "ner is a section; give its keys"),
        ("part: 2\nparts: 2", "part=2 must be below parts=2"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence_before_anything_is_run(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.yaml").write_text(text)
    assert cli.main(["study", str(tmp_path / "study.yaml"), f"dir={tmp_path / 'study'}"]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.strip().splitlines()) == 1
    assert not list(tmp_path.glob("study/*/*"))


def test_torchrun_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    assert cli.main(["study", *write_study(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "start it without torchrun" in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "study").exists()


def test_a_damaged_result_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = write_study(tmp_path)
    folder = tmp_path / "study" / "ner" / "placement=none,seed=1"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"task": 3}))
    assert cli.main(["study", *arguments]) == 2
    assert "result.json" in capsys.readouterr().err
