"""A dataset opens at once in any process, and its shards can be read with plain webdataset."""

import json
import multiprocessing
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_prep.dataset.files import DataError
from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset, Split
from tests.corpora import sentences_of


@pytest.fixture
def folder(prepare, corpus, tmp_path) -> Path:
    prepare(corpus, tmp_path / "dataset", heldout=50, shard_tokens=4000, chunk_tokens=500)
    return tmp_path / "dataset"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_shards_open_with_plain_webdataset(folder):
    import webdataset as wds

    split = open_dataset(folder).splits["train"]
    urls = sorted(str(path) for path in folder.glob("train-*.tar"))
    samples = list(wds.WebDataset(urls, shardshuffle=False).decode())
    assert len(urls) > 3 and len(samples) == split.num_chunks
    for number, sample in enumerate(samples):
        assert sample["tokens.npy"].dtype == np.int32
        assert np.array_equal(sample["tokens.npy"], split.chunk(number))
    assert len({sample["__key__"] for sample in samples}) == split.num_chunks


def test_chunks_are_read_only_views_that_remain_valid_after_their_map_is_closed(folder, monkeypatch):
    monkeypatch.setattr("data_prep.dataset.shards._MAX_OPEN_MAPS", 1)
    split = open_dataset(folder).splits["train"]
    chunks = [split.chunk(number) for number in range(split.num_chunks)]
    assert len(split._maps) == 1
    again = [split.chunk(number) for number in reversed(range(split.num_chunks))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(chunks, again, strict=True))
    assert not chunks[0].flags.writeable and not chunks[0].flags.owndata and chunks[0].dtype == np.int32
    with pytest.raises(ValueError, match="read-only"):
        chunks[0][0] = 1


def check_equal(dataset: Dataset, expected: list[str]) -> None:
    assert sentences_of(dataset) == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_dataset_can_be_sent_to_other_processes(folder, method):
    dataset = open_dataset(folder)
    process = multiprocessing.get_context(method).Process(target=check_equal, args=(dataset, sentences_of(dataset)))
    process.start()
    process.join()
    assert process.exitcode == 0


def test_a_pickled_dataset_holds_no_data(folder):
    dataset = open_dataset(folder)
    sentences_of(dataset)
    index_bytes = (folder / "index.json").stat().st_size
    assert len(pickle.dumps(dataset)) < index_bytes + 10_000
    split: Split = pickle.loads(pickle.dumps(dataset.splits["train"]))
    assert np.array_equal(split.chunk(1), dataset.splits["train"].chunk(1))


def test_opening_reads_no_shard(folder, monkeypatch):
    monkeypatch.setattr(Split, "_map", None)
    dataset = open_dataset(folder)
    assert set(dataset.splits) == {"train", "heldout"} and dataset.splits["heldout"].num_sentences == 50
    with pytest.raises(TypeError):
        dataset.splits["train"].chunk(0)


def test_the_fingerprint_changes_only_with_the_content(prepare, corpus, tmp_path, folder):
    prepare(corpus, tmp_path / "same", heldout=50, shard_tokens=4000, chunk_tokens=500, on_error="skip")
    prepare(corpus, tmp_path / "other", heldout=51, shard_tokens=4000, chunk_tokens=500)
    first, same, other = (open_dataset(path).fingerprint for path in (folder, tmp_path / "same", tmp_path / "other"))
    assert first == same != other and len(first) == 64


def test_a_folder_that_is_no_dataset_is_refused_with_the_remedy(folder, tmp_path):
    with pytest.raises(DataError, match=r"holds no index\.json, so it is no finished dataset"):
        open_dataset(tmp_path / "nowhere")
    shutil.copytree(folder, tmp_path / "copy")
    shard = tmp_path / "copy" / "train-000001.tar"
    data = shard.read_bytes()
    shard.write_bytes(data[:-512])
    with pytest.raises(DataError, match=r"train-000001\.tar has .* bytes, the index says .*; copy the file again"):
        open_dataset(tmp_path / "copy")
    shard.unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar is missing"):
        open_dataset(tmp_path / "copy")
    shard.write_bytes(data)
    index = json.loads((folder / "index.json").read_text())
    for change, message in (
        ({"version": 99}, "is of format .* 99.*, this program reads"),
        ({"fingerprint": "0" * 64}, "does not match its own fingerprint"),
    ):
        (tmp_path / "copy" / "index.json").write_text(json.dumps(index | change))
        with pytest.raises(DataError, match=message):
            open_dataset(tmp_path / "copy")
    (tmp_path / "copy" / "index.json").write_text("{")
    with pytest.raises(DataError, match="is damaged"):
        open_dataset(tmp_path / "copy")
