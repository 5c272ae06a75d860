"""Files of pickled Python objects where weights are expected: one sentence, and nothing in them is executed."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import cli
from tests.tasks.training import arguments, make_files

SAID = "called by the pickle"


class Foreign:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, (SAID,)


def as_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Foreign()}))


def as_torch_file(path: Path) -> None:
    torch.save({"state_dict": Foreign()}, path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "vectors.txt").write_text("a 0.5 0.5\n")
    (tmp_path / "run").mkdir()
    return make_files(tmp_path)


COMMANDS: dict[str, list[str]] = {
    "evaluate": ["checkpoint={file}", "data={dev}"],
    "embed": ["checkpoint={file}", "input={dev}", "output={folder}/out.h5"],
    "score": ["checkpoint={file}", "input={dev}", "output={folder}/out.tsv"],
    "export": ["checkpoint={file}", "output={folder}/out"],
    "finetune": ["from={file}", "data={dev}", "run.dir={folder}/out"],
    "cove": ["import", "weights={file}", "vectors={folder}/vectors.txt", "output={folder}/out"],
    "probe": ["pos", "train={dev}", "dev={dev}", "checkpoint={file}"],
}


@pytest.mark.parametrize("write", [as_pickle, as_torch_file])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_foreign_pickle_is_refused_in_one_sentence(
    command: str, write: Callable[[Path], None], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, dev = folder / "foreign.ckpt", folder / "dev.conll"
    write(file)
    before = sorted(folder.iterdir())
    assert cli.main([command, *(part.format(file=file, dev=dev, folder=folder) for part in COMMANDS[command])]) == 2
    refused(file, capfd)
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("write", [as_pickle, as_torch_file])
@pytest.mark.parametrize("place", ["run/last.ckpt", "foreign.ckpt"])
def test_a_task_does_not_resume_from_or_read_a_foreign_pickle(
    place: str, write: Callable[[Path], None], folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(folder / place)
    content = (folder / place).read_bytes()
    checkpoint = [] if place.startswith("run") else [f"elmo.checkpoint={folder / place}"]
    assert cli.main(["task", "ner", *arguments(folder, "run"), *checkpoint]) == 2
    refused(folder / place, capfd)
    assert (folder / place).read_bytes() == content


def refused(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, err = capfd.readouterr()
    said = err.removeprefix(
        f"{file} has no record ({file.with_suffix('.json').name}) beside it: its bytes were not checked\n"
    )
    assert str(file) in said and said.count("\n") == 1, err
    assert SAID not in out + err and "weights_only" not in err and "Weights only" not in err
