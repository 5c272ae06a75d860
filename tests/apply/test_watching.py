"""Run the commands of docs/guide/watch.md in their order, on two real runs."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.train.run_dir.tracking import read_metrics
from tests import pages
from tests.train import runs
from tests.train.wandb_server import WandbServer

PAGE = pages.ROOT / "docs" / "guide" / "watch.md"
COMMAND_LINE = pages.ROOT / "docs" / "reference" / "command-line.md"  # it lists the files of a run
# Labels of lines for a run in progress, and for settings that are equal in the two runs of this test.
NOT_OF_THESE_RUNS = {"ends", "optimizer.lr", "train.epochs", "train.max_steps", "total_steps"}


@pytest.mark.slow
def test_the_commands_and_the_python_of_the_page_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name, norms in (("first", 1), ("second", 2)):
        settings = ["train.max_steps=2", f"train.norms_every_steps={norms}", "wandb.mode=offline"]
        runs.run(dataset, tmp_path / "runs" / name, *settings)
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for command in pages.page_commands(PAGE):
            capfd.readouterr()
            assert command.words[0] == "elmo" and cli.main(command.words[1:]) == 0, command.words
            missing = pages.labels(command.output) - pages.labels(capfd.readouterr().out.splitlines())
            assert missing <= NOT_OF_THESE_RUNS, f"{command.words} does not print {missing}"
        assert len(server.runs) == 1
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*.*")} | {"view.json"}
    assert {"plots/both.html", "plots/first.png"} <= made and (tmp_path / "view.json").exists()
    for code in pages.code(PAGE, "python"):
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(compile(code, str(PAGE), "exec"), {})
        assert shown.getvalue().splitlines()[0] == "1 None"
    for file in ("metrics.jsonl", "start.json", "end.json", "wandb-run.json"):
        assert (tmp_path / "runs" / "first" / file).exists() and f"`{file}`" in COMMAND_LINE.read_text("utf-8")
    logged = {name for values in read_metrics(tmp_path / "runs" / "first").values() for name in values}
    families = {name.partition("/")[0] for name in logged}
    assert all(f"`{family}/" in PAGE.read_text("utf-8") for family in families), families


def test_the_options_that_the_page_names_exist() -> None:
    keys = re.findall(r"`(train|wandb|run)\.(\w+)", PAGE.read_text("utf-8"))
    assert len(keys) > 6
    config = runs.config_of(Path("data"), Path("run"))
    assert all(hasattr(getattr(config, part), name) for part, name in keys)
