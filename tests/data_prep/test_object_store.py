"""Datasets in an object store, read and written, with what networks and stores do wrong."""

from functools import partial
from pathlib import Path

import pytest

from data_prep.dataset.files import DataError
from data_prep.dataset.open import open_dataset
from data_prep.dataset.urls import transfer
from tests.corpora import bytes_of, sentences_of
from tests.object_store import SECRET, Fault, Store
from tests.processes import Process

URL, FOLDER = "s3://bucket/corpus", "bucket/corpus"
SIZES = {"heldout": 50, "shard_tokens": 8000, "chunk_tokens": 500}


@pytest.fixture
def folder(prepare, corpus, tmp_path) -> Path:
    prepare(corpus, tmp_path / "dataset", **SIZES)
    return tmp_path / "dataset"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ELMO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def stored(folder: Path, store: Store) -> Store:
    """A store that holds the dataset."""
    for path in folder.iterdir():
        store.put(f"{FOLDER}/{path.name}", path.read_bytes())
    return store


class Faulty:
    """A fault of the first requests, of a method, for keys with an end."""

    def __init__(self, fault: Fault, times: int, method: str, end: str) -> None:
        self.fault, self.left, self.method, self.end = fault, times, method, end

    def __call__(self, method: str, key: str) -> Fault | None:
        if method != self.method or not key.endswith(self.end) or not self.left:
            return None
        self.left -= 1
        return self.fault


def test_only_the_shards_that_are_used_are_fetched_and_each_once(stored, folder):
    dataset = open_dataset(URL)
    dataset.splits["train"].chunk(0)
    shards = [key for method, key in stored.requests if method == "GET" and key.endswith(".tar")]
    assert shards == [f"{FOLDER}/train-000000.tar"]
    assert sentences_of(dataset) == sentences_of(open_dataset(URL)) == sentences_of(folder)
    shards = [key for method, key in stored.requests if method == "GET" and key.endswith(".tar")]
    assert len(shards) == len(set(shards)) == 3


@pytest.mark.parametrize("fault", ["503", "truncated", "hang"])
def test_a_fault_that_passes_costs_a_retry(fault, stored, folder, monkeypatch):
    monkeypatch.setattr(transfer, "READ_SECONDS", 1.0)
    stored.fault = Faulty(fault, 2, "GET", "train-000001.tar")
    assert sentences_of(open_dataset(URL)) == sentences_of(folder)
    assert stored.fault.left == 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("503", r"train-000001\.tar cannot be fetched in 3 attempts .*check the URL, the network and your access"),
        ("hang", r"train-000001\.tar cannot be fetched in 3 attempts \(no answer for 1 s\)"),
        ("403", r"train-000001\.tar cannot be fetched \(PermissionError: Access Denied\)"),
        ("wrong", r"train-000001\.tar arrived damaged .*the index says"),
    ],
)
def test_a_fault_that_stays_is_one_sentence(fault, said, stored, folder, cache, monkeypatch):
    monkeypatch.setattr(transfer, "READ_SECONDS", 1.0)
    stored.fault = Faulty(fault, 1000, "GET", "train-000001.tar")
    dataset = open_dataset(URL)
    with pytest.raises(DataError, match=said) as error:
        sentences_of(dataset)
    assert "\n" not in str(error.value) and SECRET not in str(error.value)
    assert not list(cache.glob("*/train-000001.tar")) and not list(cache.glob("*/*.tmp"))
    stored.fault = lambda method, key: None
    assert sentences_of(dataset) == sentences_of(folder)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "s3://bucket/nothing",
            r"nothing/index\.json cannot be fetched \(there is no such file\).*cut short, run that",
        ),
        ("s3://nobucket/corpus", r"nobucket/corpus/index\.json cannot be fetched \(there is no such (bucket|file)\)"),
        ("s3://testing:key@bucket/corpus", "must not hold credentials before @"),
    ],
)
def test_a_wrong_url_is_one_sentence(url, said, store):
    with pytest.raises(DataError, match=said):
        open_dataset(url)


def test_without_credentials_it_is_one_sentence(stored, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"cannot be fetched \(NoCredentialsError: Unable to locate credentials\)"):
        open_dataset(URL)


def test_an_uploaded_dataset_is_that_of_a_folder_and_its_index_comes_last(prepare, corpus, folder, store, cache):
    summary = prepare(corpus, URL, **SIZES)
    files = {name: digest for name, digest in bytes_of(folder).items() if not name.startswith(".prepare")}
    assert summary.location == URL and store.names(FOLDER) == {*files, ".prepared.json"}
    assert all(store.get(f"{FOLDER}/{name}") == (folder / name).read_bytes() for name in files)
    assert store.uploaded()[0].endswith(".prepared.json") and store.uploaded()[-1].endswith("/index.json")
    assert not list(cache.glob("uploads/*"))
    before = len(store.uploaded())
    assert prepare(corpus, URL, **SIZES).already_done and len(store.uploaded()) == before


def test_a_finished_folder_is_uploaded_as_it_is_and_stays(prepare, corpus, folder, store):
    before = bytes_of(folder)
    prepare(corpus, URL, local_dir=str(folder), **SIZES)
    assert bytes_of(folder) == before and sentences_of(open_dataset(URL)) == sentences_of(folder)


def test_other_options_and_other_files_are_not_replaced(prepare, corpus, store):
    store.put("bucket/notes/plan.txt", b"mine")
    with pytest.raises(DataError, match=r"s3://bucket/notes holds plan\.txt and is no dataset"):
        prepare(corpus, "s3://bucket/notes", **SIZES)
    prepare(corpus, URL, **SIZES)
    with pytest.raises(DataError, match=r"holds a finished dataset made otherwise .*seed: 0 -> 1"):
        prepare(corpus, URL, **SIZES, seed=1)
    prepare(corpus, URL, **(SIZES | {"shard_tokens": 1 << 20}), overwrite=True)
    assert {name for name in store.names(FOLDER) if name.endswith(".tar")} == {"train-000000.tar", "heldout-000000.tar"}
    assert sentences_of(open_dataset(URL))


@pytest.mark.parametrize(
    ("url", "fault", "said"),
    [
        (URL, "403", r"cannot be uploaded \(PermissionError: Access Denied\)"),
        ("s3://nobucket/corpus", None, r"cannot be listed \(there is no such bucket\)"),
        ("s3://bucket", None, "names a bucket alone"),
        ("http://host/x", None, "looks like a URL and must be a local path"),
    ],
)
def test_what_cannot_be_written_is_known_before_the_work(url, fault, said, prepare, corpus, store, cache):
    store.fault = lambda method, key: fault if method == "PUT" else None
    with pytest.raises(DataError, match=said) as error:
        prepare(corpus, url, **SIZES)
    assert "\n" not in str(error.value) and SECRET not in str(error.value) and not cache.exists()


def test_what_arrives_wrong_is_sent_again(prepare, corpus, folder, store):
    store.fault = Faulty("wrong", 2, "PUT", "train-000001.tar")
    prepare(corpus, URL, **SIZES)
    assert store.uploaded().count(f"{FOLDER}/train-000001.tar") == 3
    assert sentences_of(open_dataset(URL)) == sentences_of(folder)


def test_what_always_arrives_wrong_stays_invisible_and_loses_nothing(prepare, corpus, folder, store, tmp_path):
    store.fault = Faulty("wrong", 1000, "PUT", "train-000001.tar")
    with pytest.raises(
        DataError, match=r"cannot be uploaded in 3 attempts .what is stored there differs from what was"
    ):
        prepare(corpus, URL, **SIZES)
    assert "index.json" not in store.names(FOLDER)
    with pytest.raises(DataError, match="holds an unfinished upload made otherwise"):
        prepare(corpus, URL, **SIZES, seed=1)
    store.fault, before = (lambda method, key: None), len(store.uploaded())
    prepare(corpus, URL, **SIZES)
    assert f"{FOLDER}/train-000000.tar" not in store.uploaded()[before:]
    assert sentences_of(open_dataset(URL)) == sentences_of(folder)


@pytest.mark.slow
def test_killed_at_any_upload_it_resumes_without_uploading_finished_shards_again(corpus, folder, store, tmp_path):
    pairs = [f"input={path}" for path in corpus] + [f"{name}={value}" for name, value in SIZES.items()]
    command = ["prep", *pairs, f"output={URL}", "workers=1"]
    for number in range(20):
        done, begun = store.names(FOLDER), len(store.requests)
        process = Process(*command, log=tmp_path / "log", environment=store.environment)
        store.fault = partial(kill_at_upload, store, process, done, 1 + number % 2)
        code = process.wait()
        sent = [key.rpartition("/")[2] for method, key in store.requests[begun:] if method == "PUT"]
        assert set(sent) & done <= {".prepared.json"}, "finished files are not sent again"
        if code == 0:
            break
        assert code == -9 and "index.json" not in store.names(FOLDER), process.output()
    assert number >= 3 and sentences_of(open_dataset(URL)) == sentences_of(folder)


def kill_at_upload(store: Store, process: Process, done: set[str], after: int, method: str, key: str) -> Fault | None:
    """Kill the process as it uploads a file that was not there, once it has uploaded `after` others."""
    new = {key.rpartition("/")[2] for method, key in store.requests if method == "PUT"} - done
    if method != "PUT" or key.rpartition("/")[2] in {*done, ".prepared.json"} or len(new) <= after:
        return None
    process.signal_group(9)
    return "hang"
