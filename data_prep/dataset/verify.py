"""Check that a dataset is unchanged since it was made, and describe what it holds."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.dataset.files import NPY_HEADER_BYTES, sha256_of
from data_prep.dataset.index import FileEntry, Index, ShardEntry, SplitEntry, files_in, read_index
from data_prep.dataset.lexicon import BOS_ID, COUNTS, EOS_ID, SPECIALS, TSV, Lexicon
from data_prep.dataset.locations import local_path
from data_prep.dataset.shards import Split, check_size, locate_in, readable
from data_prep.dataset.summary import Made, Summary, informing


@dataclass
class Report:
    """Result of verify(). faults: one sentence each; empty if the dataset is sound."""

    location: str
    files: int = 0
    bytes: int = 0
    tokens: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def __str__(self) -> str:
        checked = f"{self.location}: {self.files} files, {self.bytes / 1e6:,.1f} MB, {self.tokens:,} tokens checked"
        if self.ok:
            return f"{checked}: sound"
        return "\n".join(
            [
                f"{checked}: {len(self.faults)} faults",
                *(f"  {fault}" for fault in self.faults),
                "copy the files named again, or prepare the dataset again (overwrite=true)",
            ]
        )


def verify(folder: str | Path) -> Report:
    """Check every hash, size, offset and count of a dataset in a folder; return a report of all faults.

    Raises DataError only if the index cannot be read.
    """
    path = local_path(folder)
    with readable(path):
        index = read_index(path)
        report = Report(str(folder))
        sound = {name for name, entry in files_in(index).items() if _check_file(path / name, entry, report)}
        lexicon = _open_lexicon(path, index, report)
        for name, split in index["splits"].items():
            counts, complete = _check_split(path, name, split, sound, index["lexicon"]["types"], report)
            if name == "train" and complete and lexicon is not None:
                report.faults += _compare_counts(lexicon, counts)
        if lexicon is not None and TSV in sound:
            report.faults += _compare_tsv(path / TSV, lexicon)
    return report


def describe(folder: str | Path) -> str:
    """Return a table of what a dataset holds and how it was made. Only the index is read.

    Raises DataError for a damaged index, and for lexicon files of other sizes, which no other number of it gives.
    """
    path = local_path(folder)
    with readable(path):
        index = read_index(path)
    for name, entry in index["lexicon"]["files"].items():
        check_size(path / name, entry["bytes"])
    lines = str(Summary.from_index(str(folder), index)).splitlines()[:-1]  # without the time it took
    made = informing(index, "made", Made)
    if made.options:
        lines += ["", "made with " + " ".join(f"{name}={value}" for name, value in made.options.items())]
    lines += [f"from {one['name']} ({one['bytes']:,} bytes, {one['split']})" for one in made.inputs]
    for name, split in index["splits"].items():
        sizes = [chunk[1] for shard in split["shards"] for chunk in shard["chunks"]]
        lines.append(
            f"{name}: {len(split['shards'])} shards, {len(sizes)} chunks of {min(sizes):,} to {max(sizes):,} tokens"
        )
    return "\n".join(lines)


def _check_file(path: Path, entry: FileEntry | ShardEntry, report: Report) -> bool:
    """Return whether the file is the recorded one; add a fault to the report if not."""
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


def _open_lexicon(path: Path, index: Index, report: Report) -> Lexicon | None:
    try:
        lexicon = Lexicon.open(path, {name: entry["xxh3_64"] for name, entry in index["lexicon"]["files"].items()})
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
    path: Path, name: str, entry: SplitEntry, sound: set[str], types: int, report: Report
) -> tuple[np.ndarray, bool]:
    """Return (types,) int64 counts of the ids in the split's shards, and whether all could be counted."""
    split = Split.from_index(name, entry, types, locate_in(path))
    recorded = [chunk[2] for shard in entry["shards"] for chunk in shard["chunks"]]
    counts, complete, sentences = np.zeros(types, np.int64), True, []
    for number in range(split.num_chunks):
        shard = entry["shards"][split.chunk_shard[number]]
        if not (path / shard["file"]).exists() or (path / shard["file"]).stat().st_size != shard["bytes"]:
            complete = False
            continue
        where = f"{shard['file']}, chunk {number} of {name}"
        faults = list(_chunk_faults(split, number, path / shard["file"]))
        report.faults += [f"{where} {fault}" for fault in faults]
        complete = complete and not faults and shard["file"] in sound
        if not faults:
            chunk = split.view(number)
            counts += np.bincount(chunk, minlength=types)
            sentences.append(int((chunk == EOS_ID).sum()))
            report.tokens += len(chunk)
    if complete and sentences != recorded:
        report.faults.append(f"{name}: the sentences in its chunks are not as many as the index says")
    return counts, complete


def _chunk_faults(split: Split, number: int, shard: Path) -> Iterator[str]:
    with open(shard, "rb") as file:
        file.seek(split.chunk_offset(number) - NPY_HEADER_BYTES)
        header = file.read(NPY_HEADER_BYTES)
    if not header.startswith(b"\x93NUMPY"):
        yield "is not where the index says"
        return
    ids = split.view(number)
    yield from split.faults(number, ids)
    if ids.min() == BOS_ID:
        yield f"holds id {BOS_ID}, which is never stored"


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
