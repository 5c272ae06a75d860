"""Atomic writes (a file is whole or absent), locks, hashes, and the error that users see."""

import errno
import hashlib
import io
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
import xxhash

NPY_HEADER_BYTES = 128  # of arrays of one or two dimensions, as save_npy writes them
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{8}\.tmp", re.DOTALL)  # what _name_aside makes


class DataError(ValueError):
    """A fault in the user's data or options, in one sentence: the value, the rule, the remedy."""


class UnreachableError(DataError):
    """Data that cannot be read now, for a fault of a disk, a network or a store: a later try may succeed."""


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that durably becomes `path` when the block ends without an error, and is removed otherwise."""
    with atomic_path(path) as aside, open(aside, "wb") as file:
        yield file


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path`, as in `atomic_file`, for a library that opens the file itself."""
    aside = _name_aside(path)
    try:
        handle = _create(aside)
        mode = stat.S_IMODE(os.fstat(handle).st_mode)
        os.close(handle)
        yield aside
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(aside, mode)  # some libraries create files that only their owner can read
        os.replace(aside, path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # the error of a failed write names no file
        raise
    sync_folder(path.parent)


class HashingFile(io.RawIOBase):
    """Pass writes on to a file and hash them, so that gigabytes need not be read again to be hashed."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.digest, self.written = file, hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self.digest.update(data)
        self.written += len(data)
        return self._file.write(data)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` durably; a crash leaves the old file or the new one."""
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as JSON, durably; the same value always gives the same bytes."""
    write_bytes(path, (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode())


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write `array` to `path` in NumPy's .npy format, durably."""
    with atomic_file(path) as file:
        save_npy(file, array)


def save_npy(file: BinaryIO | io.BytesIO, array: np.ndarray) -> None:
    """Write `array` in .npy format. Unlike np.save, report a full disk as such, not as a short count."""
    contiguous = np.ascontiguousarray(array)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(contiguous))
    file.write(contiguous.data if contiguous.size else b"")


def map_npy(path: Path, dtype: type[np.generic], ndim: int = 1) -> np.ndarray:
    """Return a .npy file as a read-only memory map of `ndim` dimensions. Raises DataError for any other file."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # NumPy parses the header as Python: SyntaxError, TokenError, OverflowError, ...
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} is damaged ({reason}); copy or prepare the dataset again") from error
    if array.dtype != dtype or array.ndim != ndim:
        raise DataError(
            f"{path} holds {array.dtype} of shape {array.shape}, not {np.dtype(dtype)} of {ndim} dimensions; "
            "copy or prepare the dataset again"
        )
    return array


def lock_file(file: IO[Any] | int, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file until it is closed.

    Raises BlockingIOError if another process holds a lock and this one may not wait, DataError on a system without
    such locks.
    """
    try:
        import fcntl
    except ImportError:
        raise DataError(
            "this system has no file locks (fcntl), which keep two commands out of one folder; use Linux, macOS or WSL"
        ) from None
    fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))


def temporary_of(name: str) -> str | None:
    """Return the name of the file that a killed `atomic_file` left as `name`, None for any other file."""
    match = _TEMPORARY.fullmatch(name)
    return None if match is None else match[1]


def remove_temporaries_of(path: Path) -> None:
    """Remove what killed writers of `path` left beside it. Nobody else may be writing it."""
    for left in path.parent.iterdir():
        if temporary_of(left.name) == path.name:
            left.unlink(missing_ok=True)


def xxh3_64_of(path: Path) -> str:
    """Return the file's XXH3-64 as 16 hexadecimal digits; it finds damage ten times as fast as SHA-256."""
    return _digest_of(path, xxhash.xxh3_64())


def sha256_of(path: Path) -> str:
    """Return the file's SHA-256 as 64 hexadecimal digits."""
    return _digest_of(path, hashlib.sha256())


def _digest_of(path: Path, digest: Any) -> str:
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return str(digest.hexdigest())


def sync_folder(folder: Path) -> None:
    """Make the names in the folder durable, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full_disk(error: OSError) -> bool:
    """Return whether a write failed because the disk or the quota is full."""
    return error.errno in _FULL_DISK


def describe_os_error(error: OSError, kept: str = ": finished parts are kept") -> str:
    """Return one sentence for the user about a failed read or write, with the remedy if one is known.

    kept: its end, about what the next call need not do again.
    """
    where = error.filename or "the output folder"
    if is_full_disk(error):
        room = f"no room to write {where} ({os.strerror(error.errno or 0)})"
        return f"{room}; free some space and run the same command again{kept}"
    return f"{where}: {error.strerror or error}; see to it and run the same command again{kept}"


def _name_aside(path: Path) -> Path:
    """Return the temporary name under which `path` is written first. Raises DataError for a device or a pipe."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path} is no regular file (a device or a pipe), and would be replaced by one; name a file")
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def _create(path: Path) -> int:
    """Return a handle of a new file whose mode follows the process's umask.

    The umask cannot be read without changing it for all threads, whose new files would be open to all in that moment.
    """
    return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o666)
