"""Small files of each format, and the check that bad data is refused in one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.dataset.files import DataError

SHARED = Path(__file__).parents[3] / "shared"
DATA, VECTORS = SHARED / "data" / "tasks", SHARED / "data" / "vectors"
needs_shared = pytest.mark.skipif(not DATA.is_dir(), reason=f"the labelled data is not at {DATA} (../shared)")


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def refused(read: Callable[[Path], Any], path: Path, text: str | bytes, *parts: str) -> None:
    """Check that reading a file of this text gives one sentence that names the file and holds `parts`."""
    write(path, text)
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 500
    assert all(part in message for part in parts), message
