"""Files are complete or absent, and have the mode that any other new file would have."""

import os
import threading
from pathlib import Path

import pytest

from data_prep.dataset.files import DataError, atomic_file, atomic_path, write_bytes


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a", b"1")
        with atomic_path(tmp_path / "b") as aside:
            aside.unlink()  # as a library does that creates the file itself, readable by its owner only
            os.close(os.open(aside, os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a", "b")] == [0o666 & ~mask] * 2


def test_other_threads_never_see_a_changed_umask(tmp_path: Path) -> None:
    """The umask belongs to the process. If it changed even briefly, other threads could create files open to all."""
    done, modes = threading.Event(), set()

    def create() -> None:
        number = 0
        while not done.is_set():
            number += 1
            path = tmp_path / f"other-{number}"
            path.touch()
            modes.add(path.stat().st_mode & 0o777)
            path.unlink()

    before = os.umask(0o077)
    thread = threading.Thread(target=create)
    thread.start()
    try:
        for _ in range(3000):
            with atomic_file(tmp_path / "mine") as file:
                file.write(b"1")
    finally:
        done.set()
        thread.join()
        os.umask(before)
    assert modes == {0o600}


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a") as file:
        file.write(b"new")
        raise RuntimeError
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == b"old"


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    """If root wrote output=/dev/null as a file, the machine would lose the device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(DataError, match="is no regular file"):
            write_bytes(tmp_path / name, b"1")
        with pytest.raises(DataError, match="is no regular file"), atomic_path(tmp_path / name):
            pass
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()
    assert len(list(tmp_path.iterdir())) == 2
