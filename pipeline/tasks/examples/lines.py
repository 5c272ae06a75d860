"""Read a data set's file as numbered lines, write one back, and name file and line in each error."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.dataset.files import DataError, atomic_file
from data_prep.dataset.locations import local_path
from data_prep.dataset.typed_json import MAX_JSON_BYTES
from data_prep.text.compressed import compression_of
from data_prep.text.corpus import read_blocks

_SHOWN_CHARACTERS = 60


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line without its end) of a plain or compressed file.

    Raises DataError for a file that is absent, damaged or not UTF-8, and for one without any text.
    """
    name = _existing(path)
    is_empty = True
    for block, _ in read_blocks(name):
        if block.too_long:
            raise bad_line(path, block.first_line + 1, "is too long; this is another format, or lost its line ends")
        for number, line in _decoded(name, block.data, block.first_line + 1):
            is_empty = is_empty and not line.strip()
            yield number, line
    if is_empty:
        raise empty(path)


def read_text(path: str | Path) -> bytes:
    """Return the whole UTF-8 text of a plain or compressed file, for formats that are one JSON value.

    Raises DataError as `read_lines` does.
    """
    name, parts, size = _existing(path), [], 0
    for block, _ in read_blocks(name, block_bytes=1 << 24):
        if block.too_long:
            raise DataError(f"{path} has a line of over 16 MiB; write its JSON in several lines")
        parts.append(block.data)
        size += len(block.data)
        if size > MAX_JSON_BYTES:
            raise DataError(f"{path} has over {MAX_JSON_BYTES >> 30} GiB of JSON; split it into several files")
    data = b"".join(parts)
    if not data.strip():
        raise empty(path)
    for _ in _decoded(name, data, 1):
        pass
    return data


def write_lines(path: str | Path, lines: Iterable[str]) -> None:
    """Write lines, without line ends, to a file that is whole or absent."""
    with atomic_file(local_path(path)) as file:
        for line in lines:
            file.write(line.encode() + b"\n")


def bad_line(path: str | Path, line: int, what: str) -> DataError:
    """Return the error of a line. what: the fault with its rule or remedy, the end of a sentence."""
    return DataError(f"{path}, line {line:,} {what}")


def empty(path: str | Path) -> DataError:
    return DataError(f"{path} holds no example; give a file with data")


def shown(text: str) -> str:
    """Return a text that an error can quote: short, in one line."""
    one_line = " ".join(text.split())
    return repr(one_line if len(one_line) <= _SHOWN_CHARACTERS else f"{one_line[:_SHOWN_CHARACTERS]}…")


def _existing(path: str | Path) -> str:
    name = os.fspath(local_path(path))
    if not os.path.isfile(name):
        what = "is a folder" if os.path.isdir(name) else "does not exist"
        raise DataError(f"{path} {what}; name a file (the working folder is {os.getcwd()})")
    compression_of(name)
    return name


def _decoded(path: str, data: bytes, first_line: int) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(data.split(b"\n")[:-1] if data.endswith(b"\n") else data.split(b"\n"), first_line):
        try:
            yield number, line.decode().removesuffix("\r")
        except UnicodeDecodeError as error:
            where = f"byte 0x{line[error.start]:02x} at {error.start + 1}"
            raise bad_line(path, number, f"is not UTF-8 ({where}); convert the file to UTF-8") from None
