"""Whether a dataset is still what it was when it was made, and what it holds."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.files import DataError, read_json, sha256_of
from data_prep.lexicon import COUNTS, EOS_ID, SPECIALS, TSV, Lexicon
from data_prep.shards import INDEX, Split, check_index, locate_in
from data_prep.summary import Summary


@dataclass
class Report:
    """What verify() found. faults: one sentence each, none if the dataset is sound."""

    location: str
    files: int = 0
    bytes: int = 0
    tokens: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults

    def __str__(self) -> str:
        checked = f"{self.location}: {self.files} files, {self.bytes / 1e6:,.1f} MB, {self.tokens:,} tokens checked"
        if self.ok:
            return f"{checked}: sound"
        return "\n".join(
            [
                f"{checked}: {len(self.faults)} faults",
                *(f"  {fault}" for fault in self.faults),
                "copy the files named again, or prepare the dataset anew (overwrite=true)",
            ]
        )


def verify(folder: str | Path) -> Report:
    """Every hash, size, offset and count of a dataset in a folder is checked; all faults are in the report.

    Raises DataError only where there is no index that can be read.
    """
    path = Path(folder)
    if not (path / INDEX).is_file():
        raise DataError(f"{path} holds no {INDEX}, so it is no finished dataset; make one with elmo prep")
    index = check_index(read_json(path / INDEX), str(path))
    report = Report(str(folder))
    files = index["lexicon"]["files"] | _shards(index)
    sound = {name for name, entry in files.items() if _check_file(path / name, entry, report)}
    lexicon = _open_lexicon(path, index, report)
    counts = np.zeros(index["lexicon"]["types"], np.int64)
    for name, entry in index["splits"].items():
        counts_here, complete = _check_split(path, name, entry, sound, len(counts), report)
        if name == "train" and complete and lexicon is not None:
            counts = counts_here
            report.faults += _compare_counts(lexicon, counts)
    if lexicon is not None and TSV in sound:
        report.faults += _compare_tsv(path / TSV, lexicon)
    return report


def describe(folder: str | Path) -> str:
    """A table of what a dataset holds and how it was made. Reads the index only."""
    path = Path(folder)
    if not (path / INDEX).is_file():
        raise DataError(f"{path} holds no {INDEX}, so it is no finished dataset; make one with elmo prep")
    index = check_index(read_json(path / INDEX), str(path))
    lines = str(Summary.from_index(str(folder), index)).splitlines()[:-1]  # without the time it took
    made = index["made"]
    lines += ["", "made with " + " ".join(f"{name}={value}" for name, value in made["options"].items())]
    lines += [f"from {source['name']} ({source['bytes']:,} bytes, {source['split']})" for source in made["inputs"]]
    for name, split in index["splits"].items():
        sizes = [chunk[1] for shard in split["shards"] for chunk in shard["chunks"]]
        lines.append(
            f"{name}: {len(split['shards'])} shards, {len(sizes)} chunks of {min(sizes):,} to {max(sizes):,} tokens"
        )
    return "\n".join(lines)


def _shards(index: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {shard["file"]: shard for split in index["splits"].values() for shard in split["shards"]}


def _check_file(path: Path, entry: dict[str, Any], report: Report) -> bool:
    """Whether the file is the one recorded; what is not goes to the report."""
    if not path.exists():
        report.faults.append(f"{path.name} is missing")
        return False
    report.files += 1
    report.bytes += path.stat().st_size
    if path.stat().st_size != entry["bytes"]:
        report.faults.append(f"{path.name} has {path.stat().st_size:,} bytes, not {entry['bytes']:,}")
    elif sha256_of(path) != entry["sha256"]:
        report.faults.append(f"{path.name} has changed: its SHA-256 is not the recorded one")
    else:
        return True
    return False


def _open_lexicon(path: Path, index: dict[str, Any], report: Report) -> Lexicon | None:
    try:
        lexicon = Lexicon.open(path)
        first = lexicon.words(0, len(SPECIALS))
    except (OSError, ValueError) as error:
        report.faults.append(f"the lexicon cannot be read: {error}")
        return None
    if len(lexicon) != index["lexicon"]["types"] or first != list(SPECIALS):
        report.faults.append(
            f"the lexicon begins with {first} and has {len(lexicon):,} entries; the index says "
            f"{index['lexicon']['types']:,}"
        )
        return None
    if np.any(np.diff(lexicon.counts[len(SPECIALS) :]) > 0):
        report.faults.append(f"{COUNTS} is not in falling order")
    return lexicon


def _check_split(
    path: Path, name: str, entry: dict[str, Any], sound: set[str], types: int, report: Report
) -> tuple[np.ndarray, bool]:
    """(types,) int64 counts of the ids in the split's shards, and whether all could be counted."""
    split = Split.from_index(name, entry, locate_in(path))
    counts, complete, sentences = np.zeros(types, np.int64), True, []
    for number in range(split.num_chunks):
        shard = entry["shards"][split.chunk_shard[number]]
        if not (path / shard["file"]).exists() or (path / shard["file"]).stat().st_size != shard["bytes"]:
            complete = False
            continue
        where = f"{shard['file']}, chunk {number} of {name}"
        faults = list(_chunk_faults(split, number, types, path / shard["file"]))
        report.faults += [f"{where} {fault}" for fault in faults]
        complete = complete and not faults and shard["file"] in sound
        if not faults:
            chunk = split.chunk(number)
            counts += np.bincount(chunk, minlength=types)
            sentences.append(int((chunk == EOS_ID).sum()))
            report.tokens += len(chunk)
    if complete:
        report.faults += _compare_totals(name, entry, sentences)
    return counts, complete


def _chunk_faults(split: Split, number: int, types: int, shard: Path) -> Iterator[str]:
    num_bytes = 4 * int(split.chunk_tokens[number])
    with open(shard, "rb") as file:
        offset = split.chunk_offset(number)
        file.seek(max(0, offset - 128))
        header = file.read(128)
    if not header.startswith(b"\x93NUMPY") or offset + num_bytes > os.path.getsize(shard):
        yield "is not where the index says"
        return
    chunk = split.chunk(number)
    if len(chunk) == 0 or chunk.min() <= 0 or chunk.max() >= types:
        yield f"holds ids outside 1..{types - 1}"
    elif chunk[-1] != EOS_ID:
        yield "does not end with a sentence's end"


def _compare_totals(name: str, entry: dict[str, Any], sentences: list[int]) -> Iterator[str]:
    recorded = [chunk for shard in entry["shards"] for chunk in shard["chunks"]]
    if [chunk[2] for chunk in recorded] != sentences:
        yield f"{name}: the sentences in its chunks are not as many as the index says"
    for position, what in ((1, "tokens"), (2, "sentences")):
        by_shard = [sum(chunk[position] for chunk in shard["chunks"]) for shard in entry["shards"]]
        if by_shard != [shard[what] for shard in entry["shards"]] or sum(by_shard) != entry[what]:
            yield f"{name}: the index's {what} of chunks, shards and split do not add up"


def _compare_counts(lexicon: Lexicon, counts: np.ndarray) -> Iterator[str]:
    if len(wrong := np.flatnonzero(lexicon.counts != counts)):
        first = int(wrong[0])
        yield (
            f"the lexicon counts {len(wrong):,} words otherwise than the train shards (the first: "
            f"{lexicon.word(first)}, {lexicon.counts[first]:,} and {counts[first]:,})"
        )


def _compare_tsv(path: Path, lexicon: Lexicon) -> Iterator[str]:
    with open(path, "rb") as file:
        for block in lexicon.tsv_blocks():
            if file.read(len(block)) != block:
                yield f"{TSV} does not hold the same words and counts as the .npy files"
                return
        if file.read(1):
            yield f"{TSV} holds more words than the .npy files"
