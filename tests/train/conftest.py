"""A tiny dataset, and one uninterrupted run that other runs are compared with."""

from pathlib import Path

import pytest

from tests.train import runs

LONG_RUN = [
    "train.max_steps=120", "train.epochs=100", "train.validate_every_steps=10", "checkpoint.every_steps=5",
    "data.workers=1", "wandb.mode=offline",
]  # fmt: skip


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.make_dataset(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def long_run() -> list[str]:
    """Return the settings of a run over more than two epochs, with validation and checkpoints every few steps."""
    return LONG_RUN


@pytest.fixture(scope="session")
def uninterrupted(dataset: Path, long_run: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the long run by the command, without an interruption; return its folder."""
    run_dir = tmp_path_factory.mktemp("uninterrupted") / "run"
    runs.run(dataset, run_dir, *long_run)
    return run_dir
