"""Damage to a dataset's files is reported in one sentence when the files are first read, and never trained on."""

import random
from pathlib import Path

import numpy as np
import pytest

from data_prep.dataset.files import DataError, map_npy
from data_prep.dataset.lexicon import COUNTS, OFFSETS, UTF8
from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Split
from pipeline.data.stream import Stream
from tests.data_prep.damage import flip_a_bit, record_anew, write_id


@pytest.fixture
def folder(prepare, corpus, tmp_path) -> Path:
    prepare(corpus[:2], tmp_path / "dataset", heldout=50, shard_tokens=4000, chunk_tokens=500)
    return tmp_path / "dataset"


def read_all(folder: Path) -> None:
    """Read all chunks through streams, as training does."""
    for split in open_dataset(folder).splits.values():
        stream = Stream(split, np.arange(split.num_chunks)[::-1])
        stream.read(0, stream.num_tokens)


def test_a_flipped_bit_in_a_chunk_is_found_when_it_is_first_read(folder):
    split = open_dataset(folder).splits["train"]
    flip_a_bit(folder / "train-000000.tar", split.chunk_offset(1) + 5)
    for opened in (split, open_dataset(folder).splits["train"]):
        opened.chunk(0)
        for _ in range(2):
            with pytest.raises(DataError, match=r"train-000000\.tar, chunk 1 of train has changed: its checksum.*copy"):
                opened.chunk(1)
    with pytest.raises(DataError, match="chunk 1 of train"):
        read_all(folder)


def test_any_flipped_bit_of_a_chunk_is_found(folder):
    split = open_dataset(folder).splits["heldout"]
    shard, chance = folder / "heldout-000000.tar", random.Random(3)
    good = shard.read_bytes()
    begin, end = split.chunk_offset(0), split.chunk_offset(0) + 4 * int(split.chunk_tokens[0])
    for position in [begin, end - 1, *(chance.randrange(begin, end) for _ in range(50))]:
        shard.write_bytes(good[:position] + bytes([good[position] ^ (1 << chance.randrange(8))]) + good[position + 1 :])
        with pytest.raises(DataError, match="chunk 0 of heldout has changed"):
            open_dataset(folder).splits["heldout"].chunk(0)


def test_a_process_checks_each_chunk_once(folder, monkeypatch):
    split, checked, faults = open_dataset(folder).splits["train"], [], Split.faults
    monkeypatch.setattr(Split, "faults", lambda self, index, ids: checked.append(index) or faults(self, index, ids))
    for _ in range(3):
        for number in range(split.num_chunks):
            split.chunk(number)
    assert checked == list(range(split.num_chunks))


@pytest.mark.parametrize("name", [UTF8, OFFSETS, COUNTS])
def test_any_flipped_bit_of_the_lexicon_is_found_when_the_dataset_is_opened(folder, name):
    good, chance = (folder / name).read_bytes(), random.Random(name)
    for position in [*range(0, 128, 3), *(chance.randrange(128, len(good)) for _ in range(20)), len(good) - 1]:
        (folder / name).write_bytes(good)
        flip_a_bit(folder / name, position)
        with pytest.raises(DataError, match=f"{name} is damaged .its checksum is not the one in the index.; copy"):
            open_dataset(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: write_id(folder, 10**6), r"chunk 0 of train holds ids outside 1\.\."),
        (lambda folder: write_id(folder, -5), "chunk 0 of train holds ids outside"),
        (lambda folder: write_id(folder, 0), "chunk 0 of train holds ids outside"),  # no chunk holds <S>
        (lambda folder: write_id(folder, 7, at_end=True), "does not end with a sentence's end"),
    ],
)
def test_impossible_ids_are_found_even_if_all_hashes_agree(folder, damage, message):
    damage(folder)
    record_anew(folder)
    with pytest.raises(DataError, match=message):
        read_all(folder)


def change_array(path: Path, change) -> None:
    array = np.load(path)
    change(array)
    np.save(path, array)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (OFFSETS, lambda a: a.__setitem__(5, a[7]), "offsets in lexicon.offsets.npy fall"),
        (OFFSETS, lambda a: a.__setitem__(5, 1 << 50), "offsets in lexicon.offsets.npy fall"),
        (OFFSETS, lambda a: a.__setitem__(0, -1), "offsets in lexicon.offsets.npy fall"),
        (OFFSETS, lambda a: a.__setitem__(-1, 3), "do not belong together"),
        (COUNTS, lambda a: a.__setitem__(4, -1), "counts in lexicon.counts.npy are negative"),
    ],
)
def test_an_impossible_lexicon_is_found_even_if_all_hashes_agree(folder, name, change, message):
    change_array(folder / name, change)
    record_anew(folder)
    with pytest.raises(DataError, match=message):
        open_dataset(folder)


def test_words_that_are_not_utf8_are_reported_even_if_all_hashes_agree(folder):
    change_array(folder / UTF8, lambda array: array.__setitem__(slice(20, 40), 0xFF))
    record_anew(folder)
    with pytest.raises(DataError, match=r"is damaged \(a word is not UTF-8"):
        open_dataset(folder).lexicon.words()


def test_a_shard_that_was_cut_or_removed_after_opening_is_reported_in_one_sentence(folder):
    split = open_dataset(folder).splits["train"]
    shard = folder / "train-000001.tar"
    number = int(np.flatnonzero(split.chunk_shard == 1)[0])
    with open(shard, "r+b") as file:
        file.truncate(1000)
    with pytest.raises(DataError, match=r"train-000001\.tar has 1,000 bytes, the index says"):
        split.chunk(number)
    shard.unlink()
    with pytest.raises(DataError, match=r"train-000001\.tar is missing"):
        split.chunk(number)


HEADER = b"{'descr': '<i8', 'fortran_order': False, 'shape': (4,), }"


@pytest.mark.parametrize(
    "header",
    [HEADER[:30], HEADER.replace(b"4", b"4" * 30), HEADER.replace(b"'<i8'", b"'|O'"), HEADER.replace(b"(4,)", b"4"),
     HEADER.replace(b"{", b"("), HEADER.replace(b"shape", b"sha\0e"), HEADER.replace(b"(4,)", b"(5,)"), b"(" * 118,
     HEADER.replace(b"'<i8'", b"'<f8'"), HEADER.replace(b"(4,)", b"(2, 2)"), HEADER.replace(b"(4,)", b"(-4,)"),
     HEADER.replace(b"False", b"0x"), HEADER.replace(b"'descr'", b"descr"), b"\xff" * 118],
)  # fmt: skip
def test_a_damaged_header_of_an_array_is_reported_in_one_sentence(header, tmp_path):
    path = tmp_path / "a.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117) + b"\n" + bytes(32))
    with pytest.raises(DataError, match=r"a\.npy (is damaged|holds)") as error:
        map_npy(path, np.int64)
    assert "\n" not in str(error.value)
