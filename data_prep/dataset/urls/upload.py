"""Write files into an object store (s3, gs): each is whole there or absent, and is read back and compared."""

from pathlib import Path

from data_prep.dataset.urls import transfer
from data_prep.dataset.urls.download import remote_digest
from data_prep.dataset.urls.transfer import TransferError, file_system, is_missing_file, limited, retried

_LEAST_BYTES_PER_SECOND = 250_000  # of an upload that is not given up


def upload(path: Path, url: str, num_bytes: int, sha256: str) -> None:
    """Copy a local file to a URL and compare what is stored there. Raises DataError.

    num_bytes, sha256: of the file. An upload that is killed leaves the object as it was.
    """

    def attempt() -> None:
        files = file_system(url)
        seconds = transfer.READ_SECONDS + num_bytes / _LEAST_BYTES_PER_SECOND
        try:
            limited(seconds, lambda: files.put_file(str(path), url))
        except TransferError as error:
            if is_missing_file(error.__cause__) and path.exists():  # Google's library names the object
                raise TransferError("there is no such bucket", is_final=True) from error
            raise
        if remote_digest(url) != (num_bytes, sha256):
            raise TransferError("what is stored there differs from what was sent", is_final=False)

    retried(url, "uploaded", attempt)


def is_stored(url: str, num_bytes: int, sha256: str) -> bool:
    """Return whether the file behind the URL, which is read, has these bytes. Raises DataError if it cannot be read."""

    def attempt() -> bool:
        files = file_system(url)
        try:
            size = limited(transfer.READ_SECONDS, lambda: files.info(url)["size"])
        except TransferError as error:
            if is_missing_file(error.__cause__):
                return False
            raise
        return size == num_bytes and remote_digest(url) == (num_bytes, sha256)

    return retried(url, "read", attempt)


def list_files(url: str) -> list[str]:
    """Return the names of the files in a URL's folder, if any. Raises DataError, for a missing bucket of s3 too.

    Google's library lists a missing bucket as an empty one; `upload` finds it.
    """

    def attempt() -> list[str]:
        files = file_system(url)
        try:
            found = limited(transfer.READ_SECONDS, lambda: files.ls(url, detail=True))
        except TransferError as error:
            if is_missing_file(error.__cause__):
                return []
            raise
        names = (entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "file")
        return sorted(name for name in names if name)

    return retried(url, "listed", attempt)


def remove(url: str) -> None:
    """Remove the file behind a URL; it may be missing. Raises DataError."""

    def attempt() -> None:
        files = file_system(url)
        try:
            limited(transfer.READ_SECONDS, lambda: files.rm_file(url))
        except TransferError as error:
            if not is_missing_file(error.__cause__):
                raise

    retried(url, "removed", attempt)
