"""Google Cloud Storage, an emulator of it: prepare a dataset there, train on it, and resume from checkpoints there."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.dataset.open import open_dataset
from data_prep.dataset.urls import transfer
from pipeline.cli import main
from tests.corpora import sentences_of, write_corpus
from tests.object_store import Fault, Store, before
from tests.train import runs

DATA, MIRROR = "gs://bucket/corpus", "gs://bucket/run"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """A store with an empty bucket, to which this process has access."""
    import gcsfs
    from gcp_storage_emulator.server import create_server

    monkeypatch.setenv("NO_GCE_CHECK", "true")  # Google's library would look for credentials of a machine of Google's
    monkeypatch.setenv("ELMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer, "_SECONDS_BEFORE_RETRY", 0.01)
    with (
        create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket") as server,
        before(server._api._httpd.server_address[1]) as store,
    ):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.address)
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield store
        gcsfs.GCSFileSystem.clear_instance_cache()


def prep(folder: Path, output: str) -> int:
    sizes = ["heldout=50", "shard_tokens=8000", "chunk_tokens=500", "workers=1"]
    return main(["prep", *(f"input={path}" for path in write_corpus(folder)), f"output={output}", *sizes])


def test_a_dataset_and_a_run_live_there_and_the_run_resumes_once_its_disk_is_gone(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert prep(tmp_path / "corpus", DATA) == prep(tmp_path / "corpus", str(tmp_path / "data")) == 0
    assert sentences_of(open_dataset(DATA)) == sentences_of(tmp_path / "data")
    pairs = [f"data.path={DATA}", f"checkpoint.mirror={MIRROR}", "checkpoint.every_steps=5"]
    for steps in (10, 15):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        capfd.readouterr()
        arguments = runs.arguments(tmp_path / "data", tmp_path / "run", *pairs, f"train.max_steps={steps}")
        assert main(["pretrain", *arguments]) == 0
    assert "resumed at step 10" in "".join(capfd.readouterr())
    assert runs.saved_steps(tmp_path / "run")[-1] == 15


@pytest.mark.parametrize(
    ("bucket", "fault", "said"),
    [("nobucket", None, "there is no such bucket"), ("bucket", "403", "cannot be listed (OSError: Forbidden")],
)
def test_a_store_that_refuses_is_one_sentence_before_the_work(
    bucket: str, fault: Fault | None, said: str, store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    store.fault = lambda method, key: fault
    assert prep(tmp_path / "corpus", f"gs://{bucket}/corpus") == 2
    error = capfd.readouterr().err
    assert said in error and "check the URL, the network and your access" in error and error.count("\n") == 1, error
    assert not (tmp_path / "cache" / "uploads").exists()
