"""verify() finds every kind of damage and lists all of it."""

import re
from pathlib import Path

import pytest

from data_prep.dataset.files import DataError
from data_prep.dataset.lexicon import COUNTS, TSV
from data_prep.dataset.open import open_dataset
from data_prep.dataset.verify import describe, verify
from tests.data_prep.damage import flip_a_bit, record_anew, write_id


@pytest.fixture
def folder(prepare, corpus, tmp_path) -> Path:
    prepare(corpus, tmp_path / "dataset", heldout=50, shard_tokens=4000, chunk_tokens=500)
    return tmp_path / "dataset"


def test_a_sound_dataset_has_no_faults(folder):
    report = verify(folder)
    assert report.ok and report.tokens == sum(split.num_tokens for split in open_dataset(folder).splits.values())
    assert str(report).endswith("sound")


def test_all_damage_is_listed(folder):
    flip_a_bit(folder / "train-000000.tar", 2000)
    (folder / "train-000001.tar").write_bytes((folder / "train-000001.tar").read_bytes()[:-1000])
    (folder / "heldout-000000.tar").unlink()
    flip_a_bit(folder / TSV, -2)
    faults = "\n".join(verify(folder).faults)
    for message in (
        "train-000000.tar has changed: its SHA-256",
        "train-000001.tar has ",
        "heldout-000000.tar is missing",
        f"{TSV} has changed",
    ):
        assert message in faults
    assert "train-000000.tar, chunk 0 of train has changed: its checksum is not the one in the index" in faults
    assert "5 faults" in str(verify(folder)) and "copy the files named again" in str(verify(folder))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: write_id(folder, 10**6), "chunk 0 of train holds ids outside"),
        (lambda folder: write_id(folder, 0), "chunk 0 of train holds id 0, which is never stored"),
        (lambda folder: write_id(folder, 7, at_end=True), "does not end with a sentence's end"),
        (lambda folder: write_id(folder, 1), "the lexicon counts .* otherwise than the train shards"),
        (lambda folder: flip_a_bit(folder / COUNTS, 128 + 8 * 5), "the lexicon counts 1 words otherwise"),
        (lambda folder: flip_a_bit(folder / TSV, -2), "does not hold the same words and counts"),
        (lambda folder: flip_a_bit(folder / COUNTS, 20), "the lexicon cannot be read"),
    ],
)
def test_wrong_content_is_found_even_if_all_hashes_agree(folder, damage, message):
    damage(folder)
    record_anew(folder)
    assert any(re.search(message, fault) for fault in verify(folder).faults)


def test_a_wrong_count_or_offset_in_the_index_is_found(folder):
    def shift(index):
        index["splits"]["train"]["shards"][0]["chunks"][1][0] += 4

    def miscount(index):
        split = index["splits"]["heldout"]
        split["shards"][0]["chunks"][0][2] += 1
        split["shards"][0]["sentences"] += 1
        split["sentences"] += 1

    for change, message in (
        (shift, "chunk 1 of train is not where the index says"),
        (miscount, "heldout: the sentences in its chunks are not as many"),
    ):
        before = (folder / "index.json").read_text()
        record_anew(folder, change)
        assert any(message in fault for fault in verify(folder).faults)
        (folder / "index.json").write_text(before)
    assert verify(folder).ok


def test_a_description_shows_what_the_dataset_holds_and_how_it_was_made(folder, tmp_path):
    text = describe(folder)
    for part in ("train", "heldout", "1,150 sentences", "heldout=50", "from part-0.txt", "chunks of"):
        assert part in text
    with pytest.raises(DataError, match="no finished dataset"):
        describe(tmp_path)
    with pytest.raises(DataError, match="no finished dataset"):
        verify(tmp_path)
