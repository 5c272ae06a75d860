"""Read vectors in parts, after a check that plan.json is consistent and matches the files beside it."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from data_prep.dataset.files import DataError, write_json, write_npy
from data_prep.dataset.index import Xxh3
from data_prep.dataset.typed_json import Count, Sha256, load_json

PLAN, FAISS = "plan.json", "words.faiss"
_REMEDY = "start again with overwrite=true, or give another output"
_TEXT = re.compile(r"part-(\d{6,})\.txt")
_MADE = re.compile(r"plan\.json|words\.faiss|part-\d{6,}\.(npy|json)|\.(plan|part|words)[-.].*\.tmp")


@dataclass(frozen=True)
class Part:
    """sentences, words: how many. first: number of its first sentence, from 0. sha256: of its text."""

    number: Count
    first: Count
    sentences: Count
    words: Count
    sha256: Sha256


@dataclass(frozen=True)
class Plan:
    """identity: settings that must stay the same. files: (path, its first sentence).

    sentences, words: of the whole text. seal: SHA-256 of the other fields, made by `sealed`.
    """

    identity: dict[str, Any]
    files: list[tuple[str, Count]]
    sentences: Count
    words: Count
    parts: list[Part]
    seal: str = ""

    def sealed(self) -> "Plan":
        """Return the plan with its seal, as it is written."""
        values = json.dumps(asdict(replace(self, seal="")), sort_keys=True)
        return replace(self, seal=hashlib.sha256(values.encode()).hexdigest())


@dataclass(frozen=True)
class VectorsRecord:
    """part-N.json: the size of part-N.npy and the XXH3-64 of its values, from when they were made."""

    bytes: Count
    xxh3_64: Xxh3


def load_plan(folder: Path) -> Plan:
    """Return the plan in a folder. Raises DataError if it is damaged."""
    path = folder / PLAN
    plan: Plan = load_json(path, Plan, _REMEDY)
    if plan != plan.sealed():
        raise damaged(path, "it was changed since it was written")
    first = 0
    for number, part in enumerate(plan.parts):
        if (part.number, part.first) != (number, first) or not part.sentences:
            raise damaged(path, f"part {number} does not follow the one before")
        first += part.sentences
    if not first or (first, sum(part.words for part in plan.parts)) != (plan.sentences, plan.words):
        raise damaged(path, "its parts are not the whole text")
    begins = [begin for _, begin in plan.files]
    if begins[:1] != [0] or begins != sorted(set(begins)) or begins[-1] >= first:
        raise damaged(path, "its files do not follow one another")
    return plan


def part_path(folder: Path, number: int, suffix: str) -> Path:
    """Return the path of a part's text (txt), its vectors (npy) or their record (json)."""
    return folder / f"part-{number:06d}.{suffix}"


def remove_vectors(folder: Path, number: int) -> None:
    """Remove a part's vectors, the record first: without the record the part counts as not made."""
    part_path(folder, number, "json").unlink(missing_ok=True)
    part_path(folder, number, "npy").unlink(missing_ok=True)


def damaged(path: Path, fault: str) -> DataError:
    return DataError(f"{path} is damaged ({fault}); {_REMEDY}")


def clear(folder: Path) -> None:
    """Remove the plan and the files made from it, but keep texts, which may be used again."""
    for path in folder.iterdir() if folder.is_dir() else []:
        if _MADE.fullmatch(path.name):
            path.unlink()


def remove_texts_from(folder: Path, number: int) -> None:
    """Remove the texts of parts that are not in a plan of `number` parts."""
    for path in folder.iterdir():
        match = _TEXT.fullmatch(path.name)
        if match is not None and int(match[1]) >= number:
            path.unlink()


class Parts:
    """A folder of parts with a plan. Raises DataError if a file differs from the plan."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.vectors, self.width = folder, plan.identity["vectors"], plan.identity["width"]
        self.parts, self.files = plan.parts, plan.files
        self._sound: set[int] = set()  # parts whose checksum this process has compared

    def path(self, number: int, suffix: str) -> Path:
        return part_path(self.folder, number, suffix)

    def lines(self, number: int) -> list[str]:
        """Return a part's sentences, each as its line was given, without white space at its ends."""
        path = self.path(number, "txt")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise damaged(path, "it is missing") from None
        if hashlib.sha256(data).hexdigest() != self.parts[number].sha256:
            raise damaged(path, "its sha256 is not the one in plan.json")
        return data.decode().split("\n")[:-1]

    def sentences(self, number: int) -> list[list[str]]:
        return [line.split() for line in self.lines(number)]

    def missing(self) -> list[Part]:
        return [part for part in self.parts if not self.is_made(part.number)]

    def is_made(self, number: int) -> bool:
        """Return whether a part's vectors and their record are there."""
        return self.path(number, "npy").exists() and self.path(number, "json").exists()

    def write(self, number: int, values: np.ndarray) -> None:
        """Write a part's vectors, then their record."""
        path = self.path(number, "npy")
        remove_vectors(self.folder, number)
        write_npy(path, values)
        record = VectorsRecord(path.stat().st_size, _xxh3_64(values))
        write_json(self.path(number, "json"), asdict(record))

    def flat(self, number: int) -> np.ndarray:
        """Return a part's vectors end to end, memory-mapped; the first call compares their checksum."""
        values = self._mapped(number)
        if number not in self._sound:
            if _xxh3_64(values) != self._record(number).xxh3_64:
                raise damaged(self.path(number, "npy"), "its checksum is not the one of its record")
            self._sound.add(number)
        return values

    def _record(self, number: int) -> VectorsRecord:
        record: VectorsRecord = load_json(self.path(number, "json"), VectorsRecord, _REMEDY)
        return record

    def _mapped(self, number: int) -> np.ndarray:
        """Return a part's vectors once their size, type and shape are right."""
        path, part = self.path(number, "npy"), self.parts[number]
        recorded, size = self._record(number).bytes, path.stat().st_size
        if size != recorded:
            raise damaged(path, f"it has {size:,} bytes instead of {recorded:,}")
        try:
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError:
            raise
        except Exception as error:  # NumPy's reader of the header raises errors of Python's parser
            raise damaged(path, str(error).split("\n")[0][:100]) from None
        wanted = (self.vectors["choice"]["count"] * part.words * self.width,)
        if values.dtype != self.vectors["dtype"] or values.shape != wanted:
            raise damaged(path, f"{values.dtype} of shape {values.shape} instead of {self.vectors['dtype']}, {wanted}")
        return values

    def read(self, number: int) -> Iterator[tuple[str, np.ndarray]]:
        """Yield each sentence of a part, as in `lines`, with its vectors (layers, n, values), views of a memory map."""
        flat = self.flat(number)
        layers, begin = self.vectors["choice"]["count"], 0
        for line in self.lines(number):
            words = len(line.split())
            end = begin + layers * words * self.width
            yield line, flat[begin:end].reshape(layers, words, self.width)
            begin = end

    def check(self, checksums: bool = False) -> None:
        """Raise DataError where a part's text, or the size or header of its vectors, is damaged.

        checksums: compare those of the vectors too, which reads all of them.
        """
        for part in self.parts:
            if len(self.lines(part.number)) != part.sentences:
                raise damaged(self.path(part.number, "txt"), f"it does not have {part.sentences} sentences")
            if self.is_made(part.number):
                self.flat(part.number) if checksums else self._mapped(part.number)

    def place_of(self, part: Part, sentence: int) -> str:
        """Return FILE:LINE of a part's sentence; for tokenised text, LINE counts sentences."""
        number = part.first + sentence
        path, first = [(path, first) for path, first in self.files if first <= number][-1]
        return f"{path}:{number - first + 1}"


def _xxh3_64(values: np.ndarray) -> str:
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(values).data if values.size else b"")
