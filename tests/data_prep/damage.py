"""Damage a dataset's files: with an unchanged index, or with an index whose hashes agree with the damage."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.dataset.files import sha256_of, xxh3_64_of
from data_prep.dataset.index import fingerprint_of
from data_prep.dataset.open import open_dataset


def flip_a_bit(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def write_id(folder: Path, token: int, at_end: bool = False) -> None:
    """Write another word id into the first chunk of train."""
    split = open_dataset(folder).splits["train"]
    shard = folder / "train-000000.tar"
    position = split.chunk_offset(0) + 4 * (int(split.chunk_tokens[0]) - 1 if at_end else 0)
    data = bytearray(shard.read_bytes())
    data[position : position + 4] = np.int32(token).tobytes()
    shard.write_bytes(data)


def change_index(folder: Path, change: Callable[[Any], object], with_fingerprint: bool = True) -> None:
    """Change index.json, and by default its fingerprint with it."""
    index = json.loads((folder / "index.json").read_text())
    change(index)
    if with_fingerprint:
        index["fingerprint"] = fingerprint_of(index["lexicon"], index["splits"])
    (folder / "index.json").write_text(json.dumps(index))


def record_anew(folder: Path, change: Callable[[Any], object] = lambda index: None) -> None:
    """Make the hashes and sizes in the index agree with the files, so that only the content is wrong."""

    def record(index: Any) -> None:
        change(index)
        for name, entry in index["lexicon"]["files"].items():
            entry["xxh3_64"] = xxh3_64_of(folder / name)
        shards = {shard["file"]: shard for split in index["splits"].values() for shard in split["shards"]}
        for name, shard in shards.items():
            data = (folder / name).read_bytes()
            for chunk in shard["chunks"]:
                chunk[3] = xxhash.xxh3_64_hexdigest(data[chunk[0] : chunk[0] + 4 * chunk[1]])
        for name, entry in (index["lexicon"]["files"] | shards).items():
            entry["sha256"], entry["bytes"] = sha256_of(folder / name), (folder / name).stat().st_size

    change_index(folder, record)
