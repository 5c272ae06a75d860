"""Copy files behind URLs block by block, with a limit of bytes, a limit of time, and a few retries that are logged.

http and https come with the package; s3, gs and hf need the library of an extra. Each library runs in a thread, which
is abandoned if the library hangs: timeouts and retries differ between libraries, and some libraries have none.
"""

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from data_prep.dataset.files import DataError

log = logging.getLogger(__name__)
T = TypeVar("T")
_EXTRAS = {"http": "", "https": "", "s3": "[s3]", "gs": "[gs]", "hf": "[hub]"}
_BLOCK_BYTES = 1 << 20
_ATTEMPTS = 3
_SECONDS_BEFORE_RETRY = 1.0  # doubled before each further retry
_OPEN_SECONDS, _READ_SECONDS = 12.0, 30.0  # limits for an answer


class _FetchError(Exception):
    """A failed attempt. is_final: another attempt would not help."""

    def __init__(self, reason: str, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


def download(source: str | Path, file: BinaryIO, max_bytes: int) -> tuple[int, str]:
    """Copy a URL or a local file into `file`; return its bytes and its SHA-256 (hex).

    Raises DataError for a source that cannot be read or holds more than max_bytes; OSError if writing `file` fails.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        file.seek(0)
        file.truncate()
        digest, num_bytes = hashlib.sha256(), 0
        try:
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
        except _FetchError as error:
            if error.is_final or attempt == _ATTEMPTS:
                tried = "" if attempt == 1 else f" in {attempt} attempts"
                raise DataError(
                    f"{source} cannot be fetched{tried} ({error}); check the URL, the network and your access"
                ) from error
            seconds = _SECONDS_BEFORE_RETRY * 2 ** (attempt - 1)
            log.warning("%s: %s; attempt %d of %d in %g s", source, error, attempt + 1, _ATTEMPTS, seconds)
            time.sleep(seconds)
    raise AssertionError


def _blocks(source: str | Path) -> Iterator[bytes]:
    return _local_blocks(source) if isinstance(source, Path) else _remote_blocks(source)


def _local_blocks(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            while block := file.read(_BLOCK_BYTES):
                yield block
    except OSError as error:
        raise _FetchError(_reason(error), is_final=True) from error


def _remote_blocks(url: str) -> Iterator[bytes]:
    stream = _attempt(_OPEN_SECONDS, lambda: _open(url))
    try:
        while block := _attempt(_READ_SECONDS, lambda: stream.read(_BLOCK_BYTES)):
            yield block
    finally:
        threading.Thread(target=stream.close, daemon=True).start()  # closing may hang, as reading may


def _open(url: str) -> Any:
    import fsspec

    scheme = url.partition(":")[0].lower()
    if scheme == "gs":
        logging.getLogger("gcsfs").setLevel(logging.ERROR)  # it logs many tracebacks for one cause
    try:
        files = fsspec.filesystem(scheme, **_options(scheme))
    except (ImportError, ValueError) as error:
        raise _FetchError(
            f"{scheme}:// needs a library: pip install 'elmo-pipeline{_EXTRAS[scheme]}'", is_final=True
        ) from error
    if scheme in ("http", "https"):  # as one stream; any size saves the request for the size, and is not used
        return files.open(url, "rb", block_size=0, size=1, headers={"Accept-Encoding": "identity"})
    return files.open(url, "rb")


def _options(scheme: str) -> dict[str, Any]:
    if scheme not in ("http", "https"):
        return {}
    from aiohttp import ClientTimeout  # aiohttp's default ends any download after five minutes

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, connect=_OPEN_SECONDS, sock_read=_READ_SECONDS)}}


def _attempt(seconds: float, function: Callable[[], T]) -> T:
    """Return what the function returns. Raises _FetchError for any error of the function, and if it takes too long."""
    found: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            found.put((function(), None))
        except Exception as error:
            found.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = found.get(timeout=seconds)
    except queue.Empty:
        raise _FetchError(f"no answer for {seconds:g} s", is_final=False) from None
    if isinstance(error, _FetchError):
        raise error
    if error is not None:
        raise _FetchError(_reason(error), _is_final(error)) from error
    return value  # type: ignore[return-value]


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".removesuffix(": ")


def _is_final(error: Exception) -> bool:
    status = getattr(error, "status", None)  # of an HTTP response
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 429)
    return isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError)
