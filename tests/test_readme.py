"""Run every command of the README, compare its output with the output shown, and check that every path exists.

Commands are in ```console blocks after `$ `, with their output below. Commands of elmo run here, in order, in one
folder, with the overrides below and no other change. Commands of make are those that .ci/run runs.
"""

import gzip
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS
from tests import pages
from tests.pages import ROOT

PAGE = ROOT / "README.md"
README = PAGE.read_text(encoding="utf-8")
# Sizes and steps that a test can afford. Everything else in a command runs as it is written.
OVERRIDES = {
    "prep": ["workers=1"],
    "pretrain": [
        "model.filters=[[1,4],[2,4]]", "model.lstm_dim=8", "model.projection_dim=4", "data.lanes=4", "data.window=8",
        "data.vocab_min_count=1", "softmax.num_samples=8", "train.max_steps=4", "train.threads=1", "data.workers=0",
    ],
    "embed": ["workers=1"],
    "export": [],
}  # fmt: skip


def test_the_readme_is_one_screen() -> None:
    assert len(README.splitlines()) <= 90


def test_every_kind_of_command_in_the_readme_is_tested() -> None:
    kinds = {(command.words[0], command.words[1]) for command in pages.page_commands(PAGE)}
    assert kinds >= {("make", "demo"), ("make", "test"), ("elmo", "prep"), ("elmo", "pretrain"), ("elmo", "embed")}
    assert {program for program, _ in kinds} == {"make", "elmo"}
    assert {name for program, name in kinds if program == "elmo"} <= set(OVERRIDES)


def test_the_make_commands_of_the_readme_are_run_by_ci() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for command in pages.page_commands(PAGE):
        if command.words[0] == "make":
            assert " ".join(command.words) in ci
            subprocess.run([*command.words, "--dry-run"], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_every_elmo_command_that_the_readme_names_exists() -> None:
    assert set(re.findall(r"`elmo ([a-z]+)", README)) <= set(COMMANDS)


def test_every_path_that_the_readme_names_exists() -> None:
    named = re.findall(r"\]\(([^):]+)\)", README) + re.findall(r"configs/\w+\.yaml", README)
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_and_the_python_of_the_readme_run_in_order(tmp_path: Path) -> None:
    write_the_files_of_a_reader(tmp_path)
    for command in pages.page_commands(PAGE):
        if command.words[0] == "elmo":
            printed = run(tmp_path, "-m", "pipeline.cli", *command.words[1:], *OVERRIDES[command.words[1]])
            missing = pages.labels(command.output) - pages.labels(printed.splitlines())
            assert not missing, f"{command.words} does not print {missing}: {printed}"
    (export,) = re.findall(r"after `elmo (export [^`]+)`", README)
    run(tmp_path, "-m", "pipeline.cli", *export.split())
    for block in pages.code(PAGE, "python"):
        assert "torch.Size([2, 6, 8])" in run(tmp_path, "-c", block)
    assert (tmp_path / "corpus.h5").exists()


def write_the_files_of_a_reader(folder: Path) -> None:
    """Write tokenised text, another text, and a link to the clone's configs."""
    sentences = [f"The bank number {n % 13} of the river lends {n % 7} boats .\n" for n in range(600)]
    (folder / "corpus").mkdir()
    for part in range(2):
        with gzip.open(folder / "corpus" / f"part-{part}.txt.gz", "wt") as file:
            file.writelines(sentences[part::2])
    (folder / "corpus.txt").write_text("".join(sentences[:50]))
    (folder / "configs").symlink_to(ROOT / "configs")


def run(folder: Path, *arguments: str) -> str:
    """Run Python in the folder; return what it printed on both streams."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return f"{done.stdout}\n{done.stderr}"
