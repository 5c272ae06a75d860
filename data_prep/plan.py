"""The plan of a preparation: options, input files, and their division into units of work."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from typing_extensions import TypedDict

from data_prep.dataset.files import DataError, write_json
from data_prep.dataset.typed_json import Count, load_json
from data_prep.options import PrepConfig
from data_prep.text.compressed import compression_of
from data_prep.text.corpus import STDIN, InputIdentity, Source
from data_prep.workspace import WORK_REMEDY

UNIT_BYTES = 64 << 20  # size of a unit of a large plain file: some 12 M words, ten seconds of work
_LINE_END, _EMPTY_LINE = re.compile(rb"\n"), re.compile(rb"\n[ \t\r]*\n")
T = TypeVar("T")
_VERSION = 3  # of the work folder: unfinished work of another version is refused


@dataclass(frozen=True)
class Unit:
    """A part of the input that one process encodes: bytes start..stop of a source (stop None: to the source's end)."""

    number: Count
    source: Count
    start: Count
    stop: Count | None


class Identity(TypedDict):
    """Options and inputs (without paths) that a rerun must share to continue a preparation."""

    options: dict[str, Any]
    inputs: list[InputIdentity]


class _SavedPlan(TypedDict):
    version: Literal[3]
    options: PrepConfig
    sources: list[Source]
    units: list[Unit]


@dataclass(frozen=True)
class PrepPlan:
    """The plan as saved in the work folder, the same for all processes of a preparation."""

    options: PrepConfig
    sources: list[Source]
    units: list[Unit]

    @property
    def has_stdin(self) -> bool:
        """Whether an input is standard input, which cannot be read twice or recognised in a rerun."""
        return any(source.path == STDIN for source in self.sources)

    def source_of(self, unit: Unit) -> Source:
        """Return the input file of a unit."""
        return self.sources[unit.source]

    def num_bytes(self, unit: Unit) -> int:
        """Return the unit's bytes in its file (compressed bytes of a compressed file)."""
        return (self.source_of(unit).num_bytes if unit.stop is None else unit.stop) - unit.start

    def share(self, tasks: list[T]) -> list[T]:
        """Return those of the tasks of a pass that this call is to do."""
        return tasks[self.options.task :: self.options.tasks]

    def identity(self) -> Identity:
        """Return what a rerun must share to continue this preparation."""
        return {"options": self.options.identity(), "inputs": [source.identity() for source in self.sources]}

    def save(self, path: Path) -> None:
        """Write the plan into a file that load() reads."""
        write_json(path, {"version": _VERSION, **asdict(self), "options": self.options.identity()})

    @classmethod
    def load(cls, path: Path) -> "PrepPlan":
        """Return the plan that save() wrote."""
        saved = load_json(path, _SavedPlan, WORK_REMEDY)
        plan = cls(saved["options"], saved["sources"], saved["units"])
        if any(unit.number != i or unit.source >= len(plan.sources) for i, unit in enumerate(plan.units)):
            raise DataError(f"{path} is damaged (its units are not in order, or of no source); {WORK_REMEDY}")
        return plan


def load_identity(path: Path) -> Identity:
    """Return the identity of a finished dataset's preparation."""
    identity: Identity = load_json(path, Identity, WORK_REMEDY)
    return identity


def make_plan(sources: list[Source], options: PrepConfig) -> PrepPlan:
    """Return the plan for these inputs and options: a pure function, so all processes get the same plan."""
    ranges = [
        (number, start, stop) for number, source in enumerate(sources) for start, stop in _ranges(source, options)
    ]
    return PrepPlan(options, sources, [Unit(i, *parts) for i, parts in enumerate(ranges)])


def _ranges(source: Source, options: PrepConfig) -> Iterator[tuple[int, int | None]]:
    if source.path == STDIN or source.num_bytes <= UNIT_BYTES or compression_of(source.path):
        yield 0, None
        return
    pattern = _EMPTY_LINE if options.shuffle == "documents" else _LINE_END
    start = 0
    with open(source.path, "rb") as file:
        while start < source.num_bytes:
            file.seek(min(start + UNIT_BYTES, source.num_bytes))
            stop = min(_after_next(pattern, file.read, file.tell()), source.num_bytes)
            yield start, stop
            start = stop


def _after_next(pattern: re.Pattern[bytes], read: Any, position: int) -> int:
    """Return the position after the next match, or the file's end."""
    tail = b""
    while data := read(1 << 16):
        if found := pattern.search(tail + data):
            return position - len(tail) + found.end()
        position += len(data)
        tail = (tail + data)[-64:]
    return position


def changed_units(before: PrepPlan, now: PrepPlan) -> list[Unit]:
    """Return the units of `before` whose text is not that of the unit of the same number now."""

    def text_of(plan: PrepPlan, unit: Unit) -> tuple[InputIdentity, Unit]:
        return plan.source_of(unit).identity(), unit

    same = [text_of(now, unit) for unit in now.units]
    return [unit for unit in before.units if same[unit.number : unit.number + 1] != [text_of(before, unit)]]


def differences(before: Identity, now: Identity, except_for: Sequence[str] = (), may_change: bool = False) -> list[str]:
    """Return the differences of two identities as "name: before -> now".

    except_for: options that may differ. may_change: whether files of the same names may have other text.
    """
    found = [
        f"{name}: {before['options'].get(name)} -> {value}"
        for name, value in now["options"].items()
        if name not in except_for and before["options"].get(name) != value
    ]
    old, new = ({(i["split"], i["label"]): i for i in identity["inputs"]} for identity in (before, now))
    found += [f"{split} input {label} was not there before" for split, label in new if (split, label) not in old]
    found += [f"{split} input {label} is gone" for split, label in old if (split, label) not in new]
    found += [
        f"{split} input {label} has changed (size or time)"
        for split, label in new
        if not may_change and (split, label) in old and old[split, label] != new[split, label]
    ]
    if not found and list(old) != list(new):
        found.append("the order of the inputs")
    return found
