"""The input files, in a fixed order, and their text in blocks of whole lines."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from typing_extensions import TypedDict

from data_prep.dataset.files import DataError
from data_prep.dataset.locations import local_path
from data_prep.dataset.typed_json import Count
from data_prep.text.compressed import CUT_SHORT, compression_of, open_text

STDIN = "-"
MAX_LINE_BYTES = 16 << 20  # so that a file without line ends does not fill the memory
_BLOCK_BYTES = 1 << 18  # words of such a block fit the processor's cache: twice as fast as large blocks
_BOM = b"\xef\xbb\xbf"


class InputIdentity(TypedDict):
    """A Source without its path."""

    label: str
    split: str
    num_bytes: Count
    mtime_ns: int


@dataclass(frozen=True)
class Source:
    """One input file. path: as the user named it. label: its path relative to the folder common to all inputs."""

    path: str
    label: str
    split: str
    num_bytes: Count
    mtime_ns: int

    def identity(self) -> "InputIdentity":
        """Return what identifies the same input in another call, even if it has moved."""
        return {"label": self.label, "split": self.split, "num_bytes": self.num_bytes, "mtime_ns": self.mtime_ns}

    def refuse_changed(self) -> None:
        """Raise DataError if the file is another one than when it was found."""
        if self.path == STDIN:
            return
        status = os.stat(self.path)
        if (status.st_size, status.st_mtime_ns) != (self.num_bytes, self.mtime_ns):
            raise DataError(
                f"input {self.path} changed while it was read; run the same command again once it is complete"
            )


@dataclass(frozen=True)
class Block:
    """Whole lines as bytes, each with its line end. first_line: number of the first line in its unit, from 0.

    too_long: the block stands for one line of more than MAX_LINE_BYTES; `data` holds its beginning only.
    """

    first_line: int
    data: bytes
    too_long: bool = False


def find_sources(inputs: Sequence[str], heldout_inputs: Sequence[str], output: str) -> list[Source]:
    """Return the files that `inputs` (train) and `heldout_inputs` (heldout) name, in a fixed order.

    A name is a file, a folder (all files below it except hidden ones, sorted), a glob of both, or "-" (standard input).
    Links are followed. Raises
    DataError for an input that does not exist, cannot be read, is named twice, or lies in `output`.
    """
    named = [
        (path, split)
        for split, names in (("train", inputs), ("heldout", heldout_inputs))
        for name in names
        for path in _expand(name)
    ]
    if not named:
        raise DataError("no input: name at least one file, glob, folder or - (standard input)")
    _refuse_duplicates([path for path, _ in named])
    for path, _ in named:
        _refuse_undecodable(path)
    root = _common_folder([path for path, _ in named if path != STDIN])
    sources = [_source(path, split, root) for path, split in named]
    inside = os.path.realpath(output) + os.sep
    for path, _ in named:
        if os.path.realpath(path).startswith(inside):
            raise DataError(f"input {path} lies in the output folder {output}; use another output folder")
    return sources


def refuse_nested(inputs: Sequence[str], output: Path) -> None:
    """Raise DataError if the output lies in an input folder: its files would be input of the next call."""
    inside = os.path.realpath(output) + os.sep
    for name in inputs:
        folder = os.path.expanduser(name)
        if os.path.isdir(folder) and inside.startswith(os.path.realpath(folder) + os.sep):
            raise DataError(f"output {output} lies in the input folder {name}; name a folder outside of it")


def _expand(name: str) -> list[str]:
    if name == STDIN:
        return [name]
    local_path(name)
    name = os.path.expanduser(name)
    if os.path.isdir(name):
        return _sorted(_files_below(name)) or _nothing(f"folder {name} holds no files")
    if os.path.exists(name):
        return [name]
    if glob.has_magic(name):
        files = {path for found in glob.glob(name, recursive=True) for path in _files_at(found)}
        return _sorted(files) or _nothing(f"no file matches {name}")
    return _nothing(f"input {name} does not exist")


def _sorted(paths: Iterable[str]) -> list[str]:
    return sorted(paths, key=os.fsencode)


def _files_at(path: str) -> list[str]:
    if os.path.isdir(path):
        return list(_files_below(path))
    return [path] if os.path.exists(path) else _nothing(f"input {path} is a link to a file that does not exist")


def _files_below(top: str) -> Iterator[str]:
    """Yield the files below a folder, and below folders that links lead to, each folder once; no hidden ones."""
    seen = set()
    for folder, folders, files in os.walk(top, onerror=_refuse, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = _sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(folder, file) for file in files if not file.startswith("."))


def _refuse(error: OSError) -> None:
    raise DataError(f"input folder {error.filename} cannot be read ({error.strerror}); change its permissions")


def _nothing(what: str) -> list[str]:
    raise DataError(f"{what}; check the spelling and the working folder ({os.getcwd()})")


def _refuse_undecodable(path: str) -> None:
    """Raise DataError for a name that is not UTF-8: plan and index store the names of inputs."""
    full = os.path.abspath(path)
    try:
        full.encode()
    except UnicodeEncodeError:
        shown = os.fsencode(full).decode("utf-8", "backslashreplace")
        raise DataError(f"input {shown} has a name that is not UTF-8; rename it") from None


def _refuse_duplicates(paths: list[str]) -> None:
    seen: dict[object, str] = {}
    for path in paths:
        status = None if path == STDIN else os.stat(path)
        file = (status.st_dev, status.st_ino) if status else STDIN
        if file in seen:
            raise DataError(
                f"input {path} is the same file as {seen[file]}; name it once, in inputs or in heldout_inputs"
            )
        seen[file] = path


def _common_folder(paths: list[str]) -> str:
    folders = [os.path.dirname(os.path.abspath(path)) for path in paths]
    return os.path.commonpath(folders) if folders else ""


def _source(path: str, split: str, root: str) -> Source:
    if path == STDIN:
        if sys.stdin is None:
            raise DataError("standard input, as - asks for, is closed; pipe a text in, or name files")
        return Source(path, "(standard input)", split, 0, 0)
    status = os.stat(path)
    if not os.path.isfile(path):
        raise DataError(f"input {path} is neither a file nor a folder; pipe it in and name - (standard input)")
    try:
        compression_of(path)
    except OSError as error:
        raise DataError(f"input {path} cannot be read ({error.strerror}); change its permissions") from error
    return Source(path, os.path.relpath(os.path.abspath(path), root), split, status.st_size, status.st_mtime_ns)


def read_blocks(
    path: str, start: int = 0, stop: int | None = None, block_bytes: int = _BLOCK_BYTES
) -> Iterator[tuple[Block, int]]:
    """Yield the text of a file in blocks of whole lines, each with the number of bytes of the file read so far.

    start, stop: byte range of a plain file (stop must follow a line end); a compressed file is read whole.
    A byte order mark at the beginning of the file is dropped; a last line without line end gets one.
    """
    with nullcontext(sys.stdin.buffer) if path == STDIN else open(path, "rb") as file:
        try:
            stream = open_text(path, file)
            if start:
                file.seek(start)
            limited = stream if stop is None else _Range(file, stop - start)
            for block in _whole_lines(limited, block_bytes, at_file_start=start == 0):
                yield block, _position(file) - start
        except CUT_SHORT as error:
            raise DataError(f"input {path} is cut short or damaged ({error}); fetch it again") from error
        except OSError as error:
            if error.errno is not None:
                raise DataError(
                    f"input {path} cannot be read ({error.strerror}); check the disk or the permissions"
                ) from error
            raise DataError(f"input {path} is cut short or damaged ({error}); fetch it again") from error


def _position(file: BinaryIO) -> int:
    return file.tell() if file.seekable() else 0


class _Range:
    """Read at most num_bytes of a file from its current position."""

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self.file, self.left = file, num_bytes

    def read(self, size: int) -> bytes:
        data = self.file.read(min(size, self.left))
        self.left -= len(data)
        return data


def _whole_lines(stream: Any, block_bytes: int, at_file_start: bool) -> Iterator[Block]:
    number, rest = 0, b""
    while True:
        data = stream.read(block_bytes)
        if at_file_start and data:
            data, at_file_start = data.removeprefix(_BOM), False
        cut = data.rfind(b"\n") + 1
        if cut or (not data and rest):
            block = rest + data[:cut] if cut or rest.endswith(b"\n") else rest + b"\n"
            rest = data[cut:]
            yield Block(number, block)
            number += block.count(b"\n")
        else:
            rest += data
        if not data:
            return
        if len(rest) > MAX_LINE_BYTES:
            yield Block(number, rest[:100] + b"\n", too_long=True)
            number += 1
            rest = _skip_line(stream, block_bytes)


def _skip_line(stream: Any, block_bytes: int) -> bytes:
    while data := stream.read(block_bytes):
        if (cut := data.find(b"\n")) >= 0:
            return bytes(data[cut + 1 :])
    return b""
