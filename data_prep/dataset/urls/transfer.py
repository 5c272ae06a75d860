"""Call the libraries behind URLs with a limit of time and a few retries that are logged.

http and https come with the package; s3, gs and hf need the library of an extra. Each call runs in a thread, which is
abandoned if the library hangs: timeouts and retries differ between libraries, and some libraries have none. Libraries
find credentials in their own ways (environment, files, the machine's role); none pass through this project.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from data_prep.dataset.files import DataError, UnreachableError

log = logging.getLogger(__name__)
T = TypeVar("T")
OPEN_SECONDS, READ_SECONDS = 12.0, 30.0  # limits for an answer
_EXTRAS = {"http": "", "https": "", "s3": "[s3]", "gs": "[gs]", "hf": "[hub]"}
_STORE_BLOCK_BYTES = 8 << 20  # of a request; s3fs would ask for 50 MiB at once, too much for the time limit of a read
_ATTEMPTS = 3
_SECONDS_BEFORE_RETRY = 1.0  # doubled before each further retry
_FINAL = {"NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "ProfileNotFound", "RefreshError",
          "DefaultCredentialsError"}  # fmt: skip


class TransferError(Exception):
    """A failed attempt. is_final: another attempt would not help."""

    def __init__(self, reason: str, is_final: bool) -> None:
        super().__init__(reason)
        self.is_final = is_final


def retried(source: object, done: str, attempt: Callable[[], T]) -> T:
    """Return what `attempt` returns, tried a few times.

    Raises DataError: `source` cannot be `done`; UnreachableError if another try may succeed.
    """
    for number in range(1, _ATTEMPTS + 1):
        try:
            return attempt()
        except TransferError as error:
            if error.is_final or number == _ATTEMPTS:
                tried = "" if number == 1 else f" in {number} attempts"
                raise (DataError if error.is_final else UnreachableError)(
                    f"{source} cannot be {done}{tried} ({error}); check the URL, the network and your access"
                ) from error
            seconds = _SECONDS_BEFORE_RETRY * 2 ** (number - 1)
            log.warning("%s: %s; attempt %d of %d in %g s", source, error, number + 1, _ATTEMPTS, seconds)
            time.sleep(seconds)
    raise AssertionError


def limited(seconds: float, function: Callable[[], T]) -> T:
    """Return what the function returns. Raises TransferError for any error of the function, and if it takes too long.

    FileNotFoundError is the cause of the TransferError for a file that does not exist.
    """
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
        raise TransferError(f"no answer for {seconds:g} s", is_final=False) from None
    if isinstance(error, TransferError):
        raise error
    if error is not None:
        raise TransferError(reason_of(error), _is_final(error)) from error
    return value  # type: ignore[return-value]


def file_system(url: str) -> Any:
    """Return fsspec's file system for a URL. Raises TransferError if its library is missing."""
    import fsspec

    scheme = scheme_of(url)
    if scheme in ("gs", "s3"):
        logging.getLogger({"gs": "gcsfs", "s3": "s3fs"}[scheme]).setLevel(logging.ERROR)  # tracebacks of one cause
    try:
        return fsspec.filesystem(scheme, **_options(scheme))
    except (ImportError, ValueError) as error:
        raise TransferError(
            f"{scheme}:// needs a library: pip install 'elmo-pipeline{_EXTRAS[scheme]}'", is_final=True
        ) from error


def open_stream(url: str) -> Any:
    """Return a stream of the bytes of the file behind a URL."""
    files, scheme = file_system(url), scheme_of(url)
    if scheme in ("http", "https"):  # as one stream; any size saves the request for the size, and is not used
        return files.open(url, "rb", block_size=0, size=1, headers={"Accept-Encoding": "identity"})
    return files.open(url, "rb", **({"block_size": _STORE_BLOCK_BYTES} if scheme in ("gs", "s3") else {}))


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in small letters."""
    return url.partition(":")[0].lower()


def _options(scheme: str) -> dict[str, Any]:
    if scheme in ("gs", "s3"):
        return {"use_listings_cache": False}  # other processes write there too
    if scheme not in ("http", "https"):
        return {}
    from aiohttp import ClientTimeout  # aiohttp's default ends any download after five minutes

    return {"client_kwargs": {"timeout": ClientTimeout(total=None, connect=OPEN_SECONDS, sock_read=READ_SECONDS)}}


def is_missing_file(error: BaseException | None) -> bool:
    """Return whether the error says that a file does not exist, in a place that does."""
    return isinstance(error, FileNotFoundError) and not _is_missing_bucket(error)


def reason_of(error: Exception) -> str:
    """Return the reason of a failure as a part of a sentence."""
    if isinstance(error, FileNotFoundError):
        return f"there is no such {'bucket' if _is_missing_bucket(error) else 'file'}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}".removesuffix(": ")


def _is_missing_bucket(error: FileNotFoundError) -> bool:
    return "NoSuchBucket" in str(error.__cause__) or "bucket does not exist" in str(error)


def _is_final(error: Exception) -> bool:
    status = getattr(error, "status", None)  # of an HTTP response
    if isinstance(status, int):
        return 400 <= status < 500 and status not in (408, 429)
    if {type(error).__name__, type(error.__cause__).__name__} & _FINAL:
        return True
    final = FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError
    text = str(error)
    return isinstance(error, final) or "bucket is not valid" in text or text.startswith("Forbidden:")  # gcsfs's 403
