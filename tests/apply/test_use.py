"""docs/use.md says nothing that does not run."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from data_prep.prepare import prepare
from pipeline import cli
from pipeline.model.pretrained import save_pretrained
from tests.model import tiny

# Sizes a test can afford; the rest of each command is run as it stands.
OVERRIDES = {
    "finetune": ["data.lanes=8", "data.window=4", "data.vocab_min_count=1", "softmax.num_samples=4", "data.workers=0",
                 "train.max_steps=2", "train.threads=1", "train.accelerator=cpu", "wandb.mode=disabled"],
}  # fmt: skip
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
    Path("text.txt").write_text("".join(f"The river number {n % 7} has {n % 5} banks .\n" for n in range(99)))
    for name in ("data/corpus", "data/domain"):
        prepare(["text.txt"], name, heldout=0.1, workers=1, seed=len(name), show_progress=False)
    Path("configs").symlink_to(PAGE.parents[1] / "configs")
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
        assert cli.main([*command[1:], *OVERRIDES.get(command[1], [])]) == 0, command
    made = {"corpus.h5", "top.npz", "mix.h5", "corpus.safetensors", "array.h5", "scores.jsonl", "words.tsv"}
    assert made <= {path.name for path in desk.iterdir()}
