"""A dataset behind a URL is fetched once, checked, and read like a local one."""

import http.server
import multiprocessing
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from data_prep.dataset.files import DataError
from data_prep.dataset.open import open_dataset
from tests.corpora import bytes_of, sentences_of
from tests.data_prep.damage import change_index, flip_a_bit


@pytest.fixture
def folder(prepare, corpus, tmp_path) -> Path:
    prepare(corpus, tmp_path / "dataset", heldout=50, shard_tokens=8000, chunk_tokens=500)
    return tmp_path / "dataset"


class Server(http.server.ThreadingHTTPServer):
    requests: list[str]


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            self.server.requests.append(self.path)
            super().do_GET()

    server = Server(("127.0.0.1", 0), partial(Handler, directory=tmp_path))
    server.requests = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url_of(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/dataset"


def test_shards_are_fetched_once_at_first_use(folder, server, tmp_path):
    dataset = open_dataset(url_of(server), tmp_path / "cache")
    assert not any(path.endswith(".tar") for path in server.requests)
    dataset.splits["train"].chunk(0)
    assert [path for path in server.requests if path.endswith(".tar")] == ["/dataset/train-000000.tar"]
    assert sentences_of(dataset) == sentences_of(folder)
    assert sentences_of(dataset, "heldout") == sentences_of(folder, "heldout")
    again = open_dataset(url_of(server) + "/", tmp_path / "cache")
    assert sentences_of(again) == sentences_of(folder) and again.fingerprint == open_dataset(folder).fingerprint
    fetched = [path for path in server.requests if not path.endswith("index.json")]
    assert len(fetched) == len(set(fetched)), "each file once"


def read_all(url: str, cache: Path) -> None:
    sentences_of(open_dataset(url, cache))


def test_processes_of_a_node_share_one_copy(folder, server, tmp_path):
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=read_all, args=(url_of(server), tmp_path / "cache")) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    fetched = [path for path in server.requests if not path.endswith("index.json")]
    assert len(fetched) == len(set(fetched))


def test_a_damaged_shard_is_refused_and_not_kept(folder, server, tmp_path):
    shard = folder / "train-000000.tar"
    sound = shard.read_bytes()
    dataset = open_dataset(url_of(server), tmp_path / "cache")
    for damaged in (sound[:2000] + b"?" + sound[2001:], sound[:-1024], b""):
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=r"train-000000\.tar arrived damaged .* try again"):
            dataset.splits["train"].chunk(0)
        assert not list((tmp_path / "cache").glob("**/*.tar"))
        assert not list((tmp_path / "cache").glob("**/*.tmp"))
    shard.write_bytes(sound)
    assert sentences_of(dataset) == sentences_of(folder)


def test_a_dataset_that_changes_at_its_url_is_not_mixed_with_the_old_one(prepare, corpus, folder, server, tmp_path):
    old = open_dataset(url_of(server), tmp_path / "cache")
    expected = sentences_of(old)
    prepare(corpus, folder, heldout=60, shard_tokens=8000, chunk_tokens=500, overwrite=True)
    new = open_dataset(url_of(server), tmp_path / "cache")
    assert sentences_of(new) == sentences_of(folder) != expected
    assert sentences_of(old) == expected


def test_file_urls_are_copied_to_the_cache(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ELMO_CACHE", str(tmp_path / "node"))
    dataset = open_dataset(f"file:{folder}")
    assert sentences_of(dataset) == sentences_of(folder)
    cached, local = bytes_of(tmp_path / "node" / dataset.fingerprint), bytes_of(folder)
    assert {name for name in cached if name.endswith(".tar")} == {
        "train-000000.tar",
        "train-000001.tar",
        "train-000002.tar",
    }
    assert all(local[name] == digest for name, digest in cached.items() if not name.endswith(".lock"))


def test_a_failed_fetch_is_reported_as_one_error(folder, server, tmp_path):
    with pytest.raises(DataError, match=r"nothing/index\.json cannot be fetched .*check the URL"):
        open_dataset(url_of(server).replace("dataset", "nothing"), tmp_path / "cache")
    with pytest.raises(DataError, match="cannot be fetched"):
        open_dataset(f"file:{tmp_path}/nothing", tmp_path / "cache")
    shutil.copy(folder / "lexicon.tsv", folder / "index.json")
    with pytest.raises(DataError, match=r"index\.json is damaged \(invalid JSON.*copy or prepare the dataset again"):
        open_dataset(url_of(server), tmp_path / "cache")


@pytest.mark.parametrize("name", ["?x=-o/path", "../../victim", "/etc/passwd", "a/b", ".hidden"])
def test_a_remote_index_can_name_only_its_own_files(name, folder, server, tmp_path):
    change_index(folder, lambda index: index["splits"]["train"]["shards"][0].update(file=name))
    with pytest.raises(DataError, match=r"index\.json is damaged .*file is"):
        open_dataset(url_of(server), tmp_path / "cache")
    assert server.requests == ["/dataset/index.json"] and not (tmp_path / "cache").exists()


def test_a_shard_is_not_read_beyond_the_size_in_the_index(folder, server, tmp_path):
    dataset = open_dataset(url_of(server), tmp_path / "cache")
    with open(folder / "train-000000.tar", "ab") as file:
        file.truncate(1 << 33)  # sparse
    with pytest.raises(DataError, match=r"train-000000\.tar holds more than the [\d,]+ bytes that it should"):
        dataset.splits["train"].chunk(0)
    assert not list((tmp_path / "cache").glob("**/*.tar"))


def test_a_corrupted_cached_copy_is_named_and_can_be_deleted(folder, server, tmp_path):
    open_dataset(url_of(server), tmp_path / "cache").splits["train"].chunk(0)
    (copy,) = (tmp_path / "cache").glob("*/train-000000.tar")
    flip_a_bit(copy, 1000)
    with pytest.raises(DataError, match=f"{copy}, chunk 0 of train has changed.*delete this file if it is a copy"):
        open_dataset(url_of(server), tmp_path / "cache").splits["train"].chunk(0)
    copy.unlink()
    assert sentences_of(open_dataset(url_of(server), tmp_path / "cache")) == sentences_of(folder)


def test_a_cache_folder_below_the_home_folder_is_expanded(folder, server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    open_dataset(url_of(server), "~/cache")
    assert (tmp_path / "home/cache").is_dir() and not (tmp_path / "~").exists()
