"""docs/watching.md says nothing that does not run: its commands, in its order, on two real runs."""

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from pipeline import cli
from pipeline.train.tracking import read_metrics
from tests.train import runs
from tests.train.wandb_server import WandbServer

PAGE = (Path(__file__).parents[2] / "docs" / "watching.md").read_text("utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_its_commands_and_its_python_run(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name, norms in (("first", 1), ("second", 2)):
        settings = ["train.max_steps=2", f"train.norms_every_steps={norms}", "wandb.mode=offline"]
        runs.run(dataset, tmp_path / "runs" / name, *settings)
    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        for block in blocks("console"):
            for line in block.splitlines():
                words = shlex.split(line.removeprefix("$ "))
                assert words[0] == "elmo" and cli.main(words[1:]) == 0, line
        assert len(server.runs) == 1
    made = {path.relative_to(tmp_path).as_posix() for path in tmp_path.glob("*/*.*")} | {"view.json"}
    assert {"plots/both.html", "plots/first.png"} <= made and (tmp_path / "view.json").exists()
    for code in blocks("python"):
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(compile(code, "docs/watching.md", "exec"), {})
        assert shown.getvalue().splitlines()[0] == "1 None"
    for file in ("metrics.jsonl", "start.json", "end.json", "wandb-run.json"):
        assert (tmp_path / "runs" / "first" / file).exists() and f"`{file}`" in PAGE
    logged = {name for values in read_metrics(tmp_path / "runs" / "first").values() for name in values}
    families = {name.partition("/")[0] for name in logged}
    assert all(f"`{family}/" in PAGE for family in families), families


def test_what_it_names_is_there() -> None:
    keys = re.findall(r"`(train|wandb|run)\.(\w+)", PAGE)
    assert len(keys) > 6
    config = runs.config_of(Path("data"), Path("run"))
    assert all(hasattr(getattr(config, part), name) for part, name in keys)
