"""The README keeps its word: every command in it runs, every path is there.

Commands stand in ```console blocks behind `$ `. Those of elmo run here, in their order, in one folder, with the
overrides below and nothing else; those of make are what .ci/run runs.
"""

import gzip
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Sizes and steps a test can afford; the rest of each command is run as it stands.
OVERRIDES = {
    "prep": ["workers=1"],
    "pretrain": [
        "model.filters=[[1,4],[2,4]]", "model.lstm_dim=8", "model.projection_dim=4", "data.lanes=4", "data.window=8",
        "data.vocab_min_count=1", "softmax.num_samples=8", "train.max_steps=4", "train.threads=1", "data.workers=0",
    ],
    "evaluate": [],
    "finetune": ["data.lanes=4", "data.window=8", "train.max_steps=4", "train.threads=1", "data.workers=0"],
    "export": [],
    "embed": ["workers=1"],
}  # fmt: skip


def blocks(language: str) -> list[str]:
    """Contents of the fenced blocks of a language."""
    parts = README.split("\n```")
    return [body for tag, _, body in (part.partition("\n") for part in parts[1::2]) if tag == language]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    assert all(line.startswith("$ ") for line in lines), "a console block holds commands only"
    return [shlex.split(line.removeprefix("$ ")) for line in lines]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_command_is_of_a_kind_that_is_run() -> None:
    kinds = {(words[0], words[1]) for words in commands()}
    assert kinds >= {("make", "demo"), ("make", "test"), ("elmo", "prep"), ("elmo", "pretrain"), ("elmo", "evaluate")}
    assert {program for program, _ in kinds} == {"make", "elmo"}
    assert {name for program, name in kinds if program == "elmo"} <= set(OVERRIDES)


def test_its_make_commands_are_what_ci_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text()
    for words in commands():
        if words[0] == "make":
            assert " ".join(words) in ci
            subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True, timeout=60)


def test_every_command_of_elmo_it_names_is_there() -> None:
    assert set(re.findall(r"`elmo ([a-z]+)", README)) <= set(COMMANDS)


def test_every_path_it_names_is_there() -> None:
    (tree,) = blocks("")
    named = [line.split()[0] for line in tree.splitlines()]
    named += re.findall(r"\]\(([^):]+)\)", README) + re.findall(r"configs/\w+\.yaml", README)
    assert len(named) > 10
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_its_commands_and_its_python_run_one_after_the_other(tmp_path: Path) -> None:
    write_what_a_reader_has(tmp_path)
    for words in commands():
        if words[0] == "elmo":
            inspects = words[1] == "prep" and "=" not in words[2]
            run(tmp_path, "-m", "pipeline.cli", *words[1:], *([] if inspects else OVERRIDES[words[1]]))
    for block in blocks("python"):
        shown = run(tmp_path, "-c", block)
        assert "torch.Size([2, 6, 8]) torch.Size([3, 2, 6, 8])" in shown
    assert json.loads((tmp_path / "runs/first/perplexity.json").read_text())["step"] == 4


def write_what_a_reader_has(folder: Path) -> None:
    """Tokenised text, raw articles, one more text, and the clone's configs."""
    sentences = [f"The bank number {n % 13} of the river lends {n % 7} boats .\n" for n in range(600)]
    (folder / "corpus").mkdir()
    for part in range(2):
        with gzip.open(folder / "corpus" / f"part-{part}.txt.gz", "wt") as file:
            file.writelines(sentences[part::2])
    (folder / "articles").mkdir()
    (folder / "articles" / "one.txt").write_text("Mr. Smith's bank lends. It doesn't pay!\n\n" * 50)
    (folder / "other.txt").write_text("".join(sentences[:50]))
    (folder / "configs").symlink_to(ROOT / "configs")


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
