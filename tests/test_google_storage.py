"""Google Cloud Storage, an emulator of it: prepare a dataset there, train on it, and resume from checkpoints there."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.corpora import sentences_of, write_corpus
from tests.object_store import Fault, Store, before
from tests.train import runs

DATA, MIRROR = "gs://bucket/corpus", "gs://bucket/run"
SENTENCES = """
import hashlib, sys
from data_prep.dataset.open import open_dataset
from tests.corpora import sentences_of
print(hashlib.sha256("\\n".join(sentences_of(open_dataset(sys.argv[1]))).encode()).hexdigest())
"""


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    """A store with an empty bucket, to which processes started by the test have access."""
    from gcp_storage_emulator.server import create_server

    monkeypatch.setenv("NO_GCE_CHECK", "true")  # Google's library would look for credentials of a machine of Google's
    monkeypatch.setenv("ELMO_CACHE", str(tmp_path / "cache"))
    with (
        create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket") as server,
        before(server._api._httpd.server_address[1]) as store,
    ):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", store.address)
        yield store


def python(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python, which must end with the code."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == code, done.stderr
    return done


def prep(folder: Path, output: str, code: int = 0) -> str:
    """Prepare a corpus; return what was said on standard error."""
    sizes = ["heldout=50", "shard_tokens=8000", "chunk_tokens=500", "workers=1"]
    inputs = [f"input={path}" for path in write_corpus(folder)]
    return python("-m", "pipeline.cli", "prep", *inputs, f"output={output}", *sizes, code=code).stderr


@pytest.mark.slow
def test_a_dataset_and_a_run_live_there_and_the_run_resumes_once_its_disk_is_gone(store: Store, tmp_path: Path) -> None:
    local = tmp_path / "data"
    prep(tmp_path / "corpus", DATA), prep(tmp_path / "corpus", str(local))
    expected = hashlib.sha256("\n".join(sentences_of(local)).encode()).hexdigest()
    assert python("-c", SENTENCES, DATA).stdout.strip() == expected
    pairs = [f"data.path={DATA}", f"checkpoint.mirror={MIRROR}", "checkpoint.every_steps=5"]
    for steps in (10, 15):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        arguments = runs.arguments(local, tmp_path / "run", *pairs, f"train.max_steps={steps}")
        done = python("-m", "pipeline.cli", "pretrain", *arguments)
    assert "resumed at step 10" in done.stdout + done.stderr
    assert runs.saved_steps(tmp_path / "run")[-1] == 15


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bucket", "fault", "said"),
    [("nobucket", None, "there is no such bucket"), ("bucket", "403", "cannot be listed (OSError: Forbidden")],
)
def test_a_store_that_refuses_is_one_sentence_before_the_work(
    bucket: str, fault: Fault | None, said: str, store: Store, tmp_path: Path
) -> None:
    store.fault = lambda method, key: fault
    error = prep(tmp_path / "corpus", f"gs://{bucket}/corpus", code=2)
    assert said in error and "check the URL, the network and your access" in error and error.count("\n") == 1, error
    assert not (tmp_path / "cache" / "uploads").exists()
