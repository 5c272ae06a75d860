"""One cluster for all tests of a session; the ordeals on it run side by side, because they mostly wait."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, why_not
from tests.train import runs

NUM_NODES = 21  # each ordeal that takes nodes away has nodes of its own


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Cluster(NUM_NODES) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.make_dataset(tmp_path_factory.mktemp("text"))
