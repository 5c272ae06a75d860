"""Every command in docs/results.md and benchmarks/README.md exists and accepts the options shown."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from benchmarks.learning import RECIPES
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from tests.pages import ROOT

RESULTS, README = ROOT / "docs" / "results.md", ROOT / "benchmarks" / "README.md"
PACKAGES = {path.parent.name for path in (ROOT / "benchmarks").glob("*/__main__.py")}
COMMANDS = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__"} | PACKAGES


def commands(page: Path, *programs: str) -> list[list[str]]:
    """Return the words of the commands in the page's code spans that begin with `programs`."""
    spans = re.findall(r"`([^`]+)`", page.read_text(encoding="utf-8"))
    words = [shlex.split(" ".join(span.split())) for span in spans]
    return [each for each in words if tuple(each[: len(programs)]) == programs]


BENCHMARKS = sorted({tuple(words[2:]) for page in (RESULTS, README) for words in commands(page, "python", "-m")})


@pytest.mark.parametrize("words", BENCHMARKS, ids=" ".join)
def test_a_benchmark_accepts_its_options_and_prints_its_help(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    package, name = words[0].split(".")
    module = importlib.import_module(f"benchmarks.{name}.__main__" if name in PACKAGES else words[0])
    with pytest.raises(SystemExit) as ended:
        module.main([*words[1:], "-h"])
    assert package == "benchmarks" and ended.value.code == 0
    assert f"python -m {words[0]} " in capsys.readouterr().out


def test_the_readme_names_every_benchmark() -> None:
    assert {words[2].removeprefix("benchmarks.") for words in commands(README, "python", "-m")} == COMMANDS


def test_the_trainings_of_the_results_page_set_only_options_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = [*commands(RESULTS, "elmo", "pretrain"), *(words[2:] for words in commands(RESULTS, "timeout", "600"))]
    assert len(found) >= 2 and all(words[:2] == ["elmo", "pretrain"] for words in found)
    for words in found:
        load(PretrainConfig, words[2:])


def test_the_recipes_and_make_targets_of_the_results_page_exist() -> None:
    page, makefile = RESULTS.read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {*re.findall(r"recipe `([^`]+)`", page)} == RECIPES.keys()
    assert {words[1] for words in commands(RESULTS, "make")} <= {*re.findall(r"^(\w+):", makefile, re.MULTILINE)}
