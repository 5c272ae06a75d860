"""Copy files behind URLs block by block, with a limit of bytes, a limit of time, and a few retries that are logged."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from data_prep.dataset.files import DataError
from data_prep.dataset.urls import transfer
from data_prep.dataset.urls.transfer import TransferError, limited, open_stream, reason_of, retried

_BLOCK_BYTES = 1 << 20


def download(source: str | Path, file: BinaryIO, max_bytes: int) -> tuple[int, str]:
    """Copy a URL or a local file into `file`; return its bytes and its SHA-256 (hex).

    Raises DataError for a source that cannot be read or holds more than max_bytes; OSError if writing `file` fails.
    """

    def attempt() -> tuple[int, str]:
        file.seek(0)
        file.truncate()
        digest, num_bytes = hashlib.sha256(), 0
        for block in _blocks(source):
            num_bytes += len(block)
            if num_bytes > max_bytes:
                raise DataError(
                    f"{source} holds more than the {max_bytes:,} bytes that it should; check the address, and "
                    "upload the dataset again"
                )
            digest.update(block)
            file.write(block)
        return num_bytes, digest.hexdigest()

    return retried(source, "fetched", attempt)


def remote_digest(url: str) -> tuple[int, str]:
    """Return the bytes and the SHA-256 (hex) of the file behind a URL. Raises TransferError; tries once."""
    digest, num_bytes = hashlib.sha256(), 0
    for block in _remote_blocks(url):
        num_bytes += len(block)
        digest.update(block)
    return num_bytes, digest.hexdigest()


def _blocks(source: str | Path) -> Iterator[bytes]:
    return _local_blocks(source) if isinstance(source, Path) else _remote_blocks(source)


def _local_blocks(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except OSError as error:
        raise TransferError(reason_of(error), is_final=True) from error


def _remote_blocks(url: str) -> Iterator[bytes]:
    is_store = transfer.scheme_of(url) in ("gs", "s3")  # whose library tries again by itself
    stream = limited(transfer.READ_SECONDS if is_store else transfer.OPEN_SECONDS, lambda: open_stream(url))
    try:
        while block := limited(transfer.READ_SECONDS, lambda: stream.read(_BLOCK_BYTES)):
            yield block
    finally:
        threading.Thread(target=stream.close, daemon=True).start()  # closing may hang, as reading may
