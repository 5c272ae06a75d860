"""Shards on a node's own disk: copied when they are used, checked, deleted to make room, or read in place."""

import errno
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_prep.dataset.files import DataError, UnreachableError
from data_prep.dataset.open import open_dataset
from data_prep.dataset.remote import Fetched
from data_prep.dataset.shards import Split, readable
from data_prep.dataset.staging import remove_damaged
from data_prep.prepare import prepare


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    (folder / "text.txt").write_text("".join(f"a{n % 97} b{n % 89} c{n}\n" for n in range(20_000)))
    prepare([str(folder / "text.txt")], folder / "out", workers=1, show_progress=False, shard_tokens=20_000)
    return folder / "out"


def staged_shards(stage: Path) -> set[str]:
    return {path.name for path in stage.glob("*/*.tar")}


def first_chunk_of(split: Split, shard: int) -> np.ndarray:
    return split.chunk(int(np.flatnonzero(split.chunk_shard == shard)[0]))


def test_only_the_shards_that_are_read_are_copied_and_their_tokens_are_the_same(dataset: Path, tmp_path: Path) -> None:
    plain, staged = open_dataset(dataset).splits["train"], open_dataset(dataset, stage_dir=tmp_path).splits["train"]
    assert staged_shards(tmp_path) == set()
    np.testing.assert_array_equal(first_chunk_of(staged, 2), first_chunk_of(plain, 2))
    assert staged_shards(tmp_path) == {"train-000002.tar"}


def test_a_corrupted_copy_is_removed_and_made_again(dataset: Path, tmp_path: Path) -> None:
    opened = open_dataset(dataset, stage_dir=tmp_path)
    first_chunk_of(opened.splits["train"], 0)
    (copy,) = tmp_path.glob("*/train-000000.tar")
    good = copy.read_bytes()
    copy.write_bytes(good[:2000] + bytes([good[2000] ^ 1]) + good[2001:])
    assert remove_damaged(opened.index, tmp_path) == ["train-000000.tar"]
    assert remove_damaged(opened.index, tmp_path) == []
    first_chunk_of(open_dataset(dataset, stage_dir=tmp_path).splits["train"], 0)
    assert copy.read_bytes() == good


def test_a_shard_that_is_corrupted_at_its_source_is_refused(dataset: Path, tmp_path: Path) -> None:
    opened = open_dataset(dataset, stage_dir=tmp_path / "stage")
    shard = dataset / "train-000001.tar"
    good = shard.read_bytes()
    try:
        shard.write_bytes(good[:2000] + bytes([good[2000] ^ 1]) + good[2001:])
        with pytest.raises(DataError, match="arrived damaged"):
            first_chunk_of(opened.splits["train"], 1)
    finally:
        shard.write_bytes(good)


@pytest.fixture
def small_disk(dataset: Path, tmp_path: Path) -> Iterator[Path]:
    """Mount a disk with room for the lexicon and two and a half shards."""
    index = open_dataset(dataset).index
    lexicon = [entry["bytes"] for entry in index["lexicon"]["files"].values()]
    shard = index["splits"]["train"]["shards"][0]["bytes"]
    size = sum(-(-num_bytes // 4096) * 4096 for num_bytes in lexicon) + shard * 5 // 2
    disk = tmp_path / "disk"
    disk.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]).returncode
    ):
        pytest.skip("no tmpfs can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)])


def test_on_a_full_disk_old_copies_are_deleted_or_the_shard_is_read_in_place(dataset: Path, small_disk: Path) -> None:
    plain, staged = open_dataset(dataset).splits["train"], open_dataset(dataset, stage_dir=small_disk).splits["train"]
    shards = range(int(plain.chunk_shard[-1]) + 1)
    for shard in shards:
        np.testing.assert_array_equal(first_chunk_of(staged, shard), first_chunk_of(plain, shard))
    kept = staged_shards(small_disk)
    assert set() < kept < {f"train-{shard:06d}.tar" for shard in shards}
    for path in small_disk.glob("*/*.tar"):
        os.utime(path, (0, 0))  # not used recently
    del staged  # its maps keep the space occupied
    last = shards[-1]
    reopened = open_dataset(dataset, stage_dir=small_disk).splits["train"]
    np.testing.assert_array_equal(first_chunk_of(reopened, last), first_chunk_of(plain, last))
    assert f"train-{last:06d}.tar" in staged_shards(small_disk)


def test_making_room_passes_over_copies_that_another_process_has_just_removed(tmp_path: Path) -> None:
    (tmp_path / "gone.tar").symlink_to(tmp_path / "removed")
    (tmp_path / "old.tar").write_bytes(b"x")
    os.utime(tmp_path / "old.tar", (0, 0))
    assert not Fetched(tmp_path, tmp_path, {})._make_room(1 << 60)
    assert not (tmp_path / "old.tar").exists()


def test_a_failing_disk_is_told_apart_from_a_wrong_path(tmp_path: Path) -> None:
    for number, kind in ((errno.ESTALE, UnreachableError), (errno.EIO, UnreachableError), (errno.ENOENT, DataError)):
        with pytest.raises(DataError, match="cannot be read") as found, readable(tmp_path):
            raise OSError(number, os.strerror(number), str(tmp_path))
        assert type(found.value) is kind and type(pickle.loads(pickle.dumps(found.value))) is kind
