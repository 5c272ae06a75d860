from pathlib import Path

import pytest

from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset
from data_prep.prepare import prepare
from tests.corpora import write_corpus


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a dataset as `elmo prep` makes it: a few shards of a few chunks, and a held-out split."""
    folder: Path = tmp_path_factory.mktemp("prepared")
    paths = write_corpus(folder / "corpus", files=2, sentences=60)
    prepare(paths, folder / "dataset", heldout=0.2, workers=1, shard_tokens=500, chunk_tokens=120, show_progress=False)
    return open_dataset(folder / "dataset")
