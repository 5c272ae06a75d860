"""What `elmo report` puts side by side: each biLM, study and test set stays apart, and gains are over a baseline."""

from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.tasks.report import probe_tables, tables
from pipeline.tasks.report.findings import Findings, find_results
from pipeline.tasks.report.points import encoder_names, points_of
from tests.tasks.report.results import run, write_study


def named(*paths: str) -> list[str]:
    return list(encoder_names({"elmo.checkpoint": path} for path in paths).values())


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["old/general", "new/general"], ["old/general", "new/general"]),
        (["runs/a/model", "runs/b/model", "elmo"], ["a", "b", "elmo"]),
        (["runs/a/steps/1.ckpt", "runs/b/steps/1.ckpt"], ["a/steps/1.ckpt", "b/steps/1.ckpt"]),
        (["a/b", "b"], ["a/b", "b"]),
        (["x/general", "x/general/"], ["general", "general"]),
    ],
)
def test_names_of_bilms_are_as_short_as_they_stay_apart(paths: list[str], names: list[str]) -> None:
    assert named(*paths) == names


def test_two_bilms_of_one_name_are_no_seeds_of_each_other() -> None:
    runs = [
        run("ner", seed, score, elmo_checkpoint=f"{place}/general")
        for place, score in (("old", 50.0), ("new", 60.0))
        for seed in (1, 2, 3)
    ]
    points = points_of("study", runs)
    assert [(p.varied.encoder, p.mean, len(p.runs)) for p in points] == [
        ("old/general", pytest.approx(50.0), 3),
        ("new/general", pytest.approx(60.0), 3),
    ]


def test_gains_are_over_the_baseline_and_name_their_encoder() -> None:
    encoders = [run("ner", 2, score, elmo_checkpoint=f"m/{name}") for name, score in (("small", 50.0), ("large", 60.0))]
    without = tables.table_1(points_of("study", encoders))
    assert without is not None and without.header == ["score on dev", "with small", "with large"]
    baseline = run("ner", 2, 40.0, elmo_checkpoint="m/small", elmo_placement="none")
    table = tables.table_1(points_of("study", [baseline, *encoders]))
    assert table is not None
    ends = ["gain with small", "error reduction with small", "gain with large", "error reduction with large"]
    assert table.header == ["score on dev", "baseline", "with small", "with large", *ends]
    assert table.rows == [["NER, F1", "40.0", "50.0", "60.0", "+10.0", "17 %", "+20.0", "33 %"]]


@pytest.mark.parametrize("order", [("x", "y"), ("y", "x")])
def test_studies_of_one_name_do_not_replace_each_other(order: tuple[str, str], tmp_path: Path) -> None:
    for name, score in (("x", 10.0), ("y", 20.0)):
        write_study(tmp_path / name / "study", [run("ner", 1, score)])
    given = [str(tmp_path / name / "study") for name in order]
    assert list(find_results(given).studies) == given


def test_probes_on_other_data_are_marked() -> None:
    senses = {"all": 60.0, "without semeval2007": 65.0, "semeval2007": 45.0}
    findings = Findings(
        pos={
            f: {"source": f, "layers": [{"layer": "layer 1", "dev": 90.0, "test": test}]}
            for f, test in (("a", 80.0), ("b", None))
        },
        wsd={
            f: {"source": f, "scores": {"layer 1": {key: {"f1": senses[key]} for key in keys}}}
            for f, keys in (("a", ["semeval2007"]), ("b", list(senses)))
        },
    )
    assert probe_tables.pos_scores(findings) == {"a": {"layer 1": 80.0}, "b (dev)": {"layer 1": 90.0}}
    assert probe_tables.wsd_scores(findings) == {"a (semeval2007)": {"layer 1": 45.0}, "b": {"layer 1": 65.0}}


@pytest.mark.parametrize("name", ["tasks", "layers", "placement", "sample_efficiency"])
def test_the_packaged_studies_run_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.tasks.study._do", lambda *arguments, **options: 1)  # after all configs are read
    assert main(["study", f"studies/{name}", "tasks=ner", "dir=study"]) == 1
    said = capsys.readouterr()
    assert "runs are missing" in said.out and "config file" not in said.err
