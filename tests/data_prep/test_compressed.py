"""Files of several compressed streams, as pbzip2 and cat make them: the whole text is read, or the file is refused."""

import bz2
import gzip
import lzma
from pathlib import Path

import pytest

from data_prep.dataset.files import DataError
from data_prep.text.corpus import read_blocks

COMPRESS = {"bz2": bz2.compress, "xz": lzma.compress, "gz": gzip.compress}
FIRST, SECOND = b"one two\n" * 5000, b"three\n"


def text_of(path: Path) -> bytes:
    return b"".join(block.data for block, _ in read_blocks(str(path)))


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("padding", [b"", bytes(4), bytes(200_000)])
def test_the_streams_of_a_file_are_read_one_after_another(kind: str, padding: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"text.{kind}"
    path.write_bytes(COMPRESS[kind](FIRST) + padding + COMPRESS[kind](SECOND) + padding)
    assert text_of(path) == FIRST + SECOND


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("other", ["a damaged stream", "text", "another kind"])
def test_bytes_after_a_stream_that_are_no_stream_are_refused(kind: str, other: str, tmp_path: Path) -> None:
    another = next(name for name in COMPRESS if name != kind)
    second = {"a damaged stream": b"\xff" + COMPRESS[kind](SECOND)[1:], "text": SECOND,
              "another kind": COMPRESS[another](SECOND)}  # fmt: skip
    path = tmp_path / f"text.{kind}"
    path.write_bytes(COMPRESS[kind](FIRST) + second[other])
    with pytest.raises(DataError, match="is cut short or damaged"):
        text_of(path)


@pytest.mark.parametrize("kind", COMPRESS)
@pytest.mark.parametrize("left", [1, 20])
def test_a_second_stream_that_is_cut_short_is_refused(kind: str, left: int, tmp_path: Path) -> None:
    path = tmp_path / f"text.{kind}"
    path.write_bytes(COMPRESS[kind](FIRST) + COMPRESS[kind](SECOND)[:left])
    with pytest.raises(DataError, match="is cut short or damaged"):
        text_of(path)
