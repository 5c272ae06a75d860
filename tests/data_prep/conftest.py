from functools import partial
from pathlib import Path

import pytest

from data_prep import prepare as prepare_module
from tests.corpora import write_corpus


@pytest.fixture
def corpus(tmp_path: Path) -> list[str]:
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def prepare():
    """Run prepare() in this process and without a progress bar."""
    return partial(prepare_module.prepare, workers=1, show_progress=False)
