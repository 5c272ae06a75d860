"""JSON is read back as the type that was written, or refused in one sentence."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data_prep.dataset.files import DataError
from data_prep.dataset.typed_json import Count, FileName, Sha256, is_file_name, load_json, parse_json


@dataclass(frozen=True)
class Shard:
    file: FileName
    bytes: Count
    sha256: Sha256
    share: float | None = None


GOOD = {"file": "train-000000.tar", "bytes": 12, "sha256": "0" * 64}


def parse(value: Any, schema: Any = Shard) -> Any:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse_json(data, schema, "index.json", "copy the dataset again")


def test_values_are_read_back_with_their_types(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([GOOD, {**GOOD, "share": 1}]))
    first, second = load_json(tmp_path / "a.json", list[Shard], "copy it again")
    assert first == Shard("train-000000.tar", 12, "0" * 64) and second.share == 1.0


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({**GOOD, "file": "../precious.txt"}, "file is '../precious.txt'"),
        ({**GOOD, "bytes": -1}, "bytes is -1"),
        ({**GOOD, "bytes": 10**40}, "bytes is"),
        ({**GOOD, "bytes": True}, "bytes is True"),
        ({**GOOD, "bytes": "12"}, "bytes is '12'"),
        ({**GOOD, "bytes": None}, "bytes is None"),
        ({**GOOD, "sha256": "0" * 63 + "\n"}, "sha256 is"),
        ({**GOOD, "share": "much"}, "share is 'much'"),
        ({"file": "a"}, "bytes: field required"),
        ([GOOD], "the whole is"),
        (b"", "invalid JSON"),
        (b"\xff", "invalid JSON"),
        (b'{"bytes": ' + b"9" * 5000 + b"}", "invalid JSON"),
        (b"[" * 10_000 + b"]" * 10_000, "invalid JSON"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_one_sentence(value: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        parse(value)
    text = str(error.value)
    assert text.startswith("index.json is damaged (") and message in text and text.endswith("; copy the dataset again")
    assert "\n" not in text and len(text) < 400


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "index.json", "wb") as file:
        file.truncate(2 << 30)  # sparse
    with pytest.raises(DataError, match="too many"):
        load_json(tmp_path / "index.json", Shard, "copy it again")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/a", ".hidden", "a\0b", "a\n", "-o", "?x=-o/path", "é", "a" * 300]
)
def test_only_plain_names_are_accepted_as_file_names(name: str) -> None:
    assert not is_file_name(name)
    assert is_file_name("train-000000.tar") and is_file_name("lexicon.utf8.npy") and is_file_name("step-00000010.ckpt")
