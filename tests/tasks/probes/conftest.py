from pathlib import Path

import pytest

from tests.tasks.probes import data


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.save_model(tmp_path_factory.mktemp("probes") / "model")
