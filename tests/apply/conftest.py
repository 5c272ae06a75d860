"""A trained tiny biLM, its dataset, and the text on which it is scored."""

from pathlib import Path

import pytest

from tests.apply import finetuning
from tests.train import runs


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.make_dataset(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run whose vocabulary leaves out the rare words, with one validation and one checkpoint at its end."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    settings = ["data.vocab_size=300", "train.max_steps=60", "train.epochs=9", "train.validate_every_steps=60"]
    runs.train_here(dataset, run_dir, *settings)
    return run_dir


@pytest.fixture(scope="session")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a dataset that shares some of its words with `dataset`."""
    return finetuning.make_domain(tmp_path_factory.mktemp("domain"))
