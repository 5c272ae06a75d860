"""docs/use.md says nothing that does not run."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.model.pretrained import save_pretrained
from tests.model import tiny

PAGE = Path(__file__).parents[2] / "docs" / "use.md"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the page speaks of."""
    monkeypatch.chdir(tmp_path)
    words = ["<S>", "</S>", "<UNK>", "The", "bank", "."]
    for folder in ("models/first", "runs/first"):
        save_pretrained(folder, tiny.bilm(tiny.config(), len(words)), words=words, counts=np.arange(6, 0, -1))
    for name in ("corpus.txt", "sentences.txt"):
        Path(name).write_text("The bank lends .\n\nHe sat on the bank of the river .\nThe bank failed .\n")
    return tmp_path


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("code", blocks("python"))
def test_every_piece_of_python_runs(desk: Path, code: str) -> None:
    exec(compile(code, str(PAGE), "exec"), {})


def test_every_command_runs_in_the_order_of_the_page(desk: Path) -> None:
    commands = [shlex.split(line[2:]) for block in blocks("console") for line in block.splitlines()]
    assert len(commands) > 10 and all(command[0] == "elmo" for command in commands)
    (desk / "models/first").rename(desk / "models/before")  # the first command makes it
    for command in commands:
        assert cli.main(command[1:]) == 0, command
    made = {"corpus.h5", "top.npz", "mix.h5", "corpus.safetensors", "array.h5", "scores.jsonl", "words.tsv"}
    assert made <= {path.name for path in desk.iterdir()}
