"""Read compressed text (.gz, .xz, .bz2, .zst, recognised by the first bytes); raise an error for a damaged file."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from data_prep.dataset.files import DataError

CUT_SHORT = (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile)
_MAGIC = {"gz": b"\x1f\x8b", "xz": b"\xfd7zXZ\0", "bz2": b"BZh", "zst": b"\x28\xb5\x2f\xfd"}
_BLOCK_BYTES = 1 << 16
_ZSTD_WINDOW = 1 << 31  # bytes, the most that `zstd --long=31` uses; memory is taken as a file needs it
_SKIPPABLE = b"\x2a\x4d\x18"  # follows 0x50 to 0x5f: a frame without text, with which pzstd begins a file
_BZ2_BLOCK = (b"1AY&SY", b"\x17rE8P\x90")  # follow "BZh" and a digit: text may begin with "BZh", not with both


def compression_of(path: str) -> str | None:
    """Return "gz", "xz", "bz2" or "zst", or None for plain text, by the file's first bytes, not by its name."""
    with open(path, "rb") as file:
        found = sniff(file.read(16))
    suffix = Path(path).suffix[1:]
    if suffix in _MAGIC and found is None:
        raise DataError(f"input {path} is not compressed as its name says; fetch it again or rename it")
    return found


def sniff(head: bytes) -> str | None:
    """Return the compression, as compression_of does, from a file's first 16 bytes."""
    for name, magic in _MAGIC.items():
        if head.startswith(magic) and (name != "bz2" or head[4:10] in _BZ2_BLOCK):
            return name
    return "zst" if head[1:4] == _SKIPPABLE and 0x50 <= head[0] <= 0x5F else None


def open_text(path: str, file: Any) -> Any:
    """Return a stream of the uncompressed bytes of an open, buffered file.

    Reading raises one of CUT_SHORT if the file is damaged.
    """
    kind = sniff(file.peek(16)[:16])
    if kind == "gz":
        return gzip.GzipFile(fileobj=file)
    if kind == "xz":
        return io.BufferedReader(_StreamReader(file, lzma.LZMADecompressor), 1 << 17)
    if kind == "bz2":
        return io.BufferedReader(_StreamReader(file, bz2.BZ2Decompressor), 1 << 17)
    if kind == "zst":
        return io.BufferedReader(_ZstdReader(path, file), 1 << 17)
    return file


class _StreamReader(io.RawIOBase):
    """Read all streams of a .bz2 or .xz file, zero bytes between them left out.

    Raises an error if the last stream is cut short or if anything else follows it. The standard library's classes end
    silently in both cases, so a damaged byte between two streams would lose all text after it.
    """

    def __init__(self, file: BinaryIO, new_stream: Callable[[], Any]) -> None:
        self._file, self._new_stream, self._stream = file, new_stream, new_stream()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self._stream.eof:
                data = self._begin_next()
                if not data:
                    return 0
            elif self._stream.needs_input:
                data = self._file.read(_BLOCK_BYTES)
                if not data:
                    raise EOFError("the last stream does not end")
            found = self._stream.decompress(data, len(buffer))
            if found:
                buffer[: len(found)] = found
                return len(found)

    def _begin_next(self) -> bytes:
        """Return the first bytes of the next stream, none at the end of the file."""
        data: bytes = self._stream.unused_data.lstrip(b"\0")
        while not data:
            block = self._file.read(_BLOCK_BYTES)
            if not block:
                return b""
            data = block.lstrip(b"\0")
        self._stream = self._new_stream()
        return data


class _ZstdReader(io.RawIOBase):
    """Read all frames of a .zst file. Raises EOFError if the last one is cut short; zstandard's reader does not."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        try:
            import zstandard
        except ImportError:
            raise DataError(f"input {path} is zstd-compressed, which needs a library: pip install zstandard") from None
        self._new_frame = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj
        self._error = zstandard.ZstdError
        self._file, self._frame, self._begun, self._ready = file, self._new_frame(), False, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = (self._frame.unused_data if self._frame.eof else b"") or self._file.read(1 << 16)
            if not data:
                if self._begun and not self._frame.eof:
                    raise EOFError("the last zstd frame does not end")
                return 0
            if self._frame.eof:
                self._frame = self._new_frame()
            self._begun = True
            self._ready = self._decompress(data)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _decompress(self, data: bytes) -> bytes:
        try:
            return self._frame.decompress(data)
        except self._error as error:
            raise EOFError(str(error)) from error
