"""The folder that caches a remote dataset: the option, then the environment, then the default, for every command."""

from pathlib import Path

import pytest

from data_prep.dataset.open import open_dataset
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.train.pretrain import open_training_data


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        (["data.cache_dir=~/option"], "variable", "option"),
        ([], "variable", "variable"),
        (["data.cache_dir=null"], "", ".cache/elmo-pipeline"),
    ],
)
def test_the_cache_folder_is_taken_from_the_option_then_the_environment(
    given: list[str], environment: str, expected: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("ELMO_CACHE", environment and str(tmp_path / environment))
    url = f"file://{dataset}"
    found = open_training_data(load(PretrainConfig, given).data, url)
    assert (tmp_path / expected / found.fingerprint).is_dir()
    if not given:  # as in `elmo evaluate`, which has no such option
        open_dataset(url)
    assert [path for path in tmp_path.iterdir() if not path.name.startswith(".")] == [
        tmp_path / expected for _ in range(not expected.startswith("."))
    ]
