"""A small dataset of the benchmarks' own text."""

from pathlib import Path

import pytest

from benchmarks.synthetic import Corpus, write_corpus
from data_prep.prepare import prepare


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a corpus of 600 sentences, a sixth of them held out."""
    folder = tmp_path_factory.mktemp("benchmarks")
    paths, _ = write_corpus(folder / "text", Corpus(sentences=600, files=1))
    prepare(paths, folder / "data", heldout=100, workers=1, show_progress=False)
    return folder / "data"
