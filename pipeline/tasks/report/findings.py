"""Find what studies, probes, `elmo neighbors` and fine-tunings have left under some folders; read it as typed values.

A file is known by its name (results.json, finetune.json) or by what its JSON holds; other files are passed over.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le, Predicate
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.files import DataError
from data_prep.dataset.locations import local_path
from data_prep.dataset.typed_json import Count, load_json
from pipeline.config.schema import ConfigError
from pipeline.finetune.report import RECORD as FINETUNING
from pipeline.finetune.report import Figures
from pipeline.tasks.study import RESULTS

_MOST_BYTES = 1 << 26  # of a file that is looked into; results have a few MB at most
Percent = Annotated[float, Ge(0), Le(100)]
Number = Annotated[float, Predicate(math.isfinite)]


def _is_run(record: dict[str, Any]) -> bool:
    """Return whether a record of results.json has what tables need."""
    main, step = record.get("main"), record.get("best_step")
    is_named = isinstance(record.get("task"), str) and isinstance(main, str)
    numbers = [value for key, value in record.items() if "/" in key]
    is_scored = f"dev/{main}" in record and all(
        isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in numbers
    )
    return is_named and is_scored and isinstance(step, int) and step >= 0


Run = Annotated[dict[str, Any], Predicate(_is_run)]


class PosLayer(TypedDict):
    layer: str
    dev: Number
    test: Percent | None


class PosProbe(TypedDict):
    source: str | list[str]
    layers: list[PosLayer]


class SenseScore(TypedDict):
    f1: Percent


class WsdProbe(TypedDict):
    """scores: of each layer, and of "first sense", by test set."""

    source: str | list[str]
    scores: dict[str, dict[str, SenseScore]]


class PairShares(TypedDict):
    pairs: Count
    with_unknown_words: Count
    forward: Percent
    backward: Percent
    both: Percent


class PairsProbe(TypedDict):
    source: str | list[str]
    all: PairShares
    fields: dict[str, PairShares]


class Occurrence(TypedDict):
    """A word in its sentence. position: its number."""

    cosine: Number
    place: str
    words: list[str]
    position: Count


class Neighbors(TypedDict):
    query: Occurrence
    neighbors: list[Occurrence]
    searched: Count


class After(TypedDict):
    domain: NotRequired[Figures]
    general: NotRequired[Figures]
    step: Count


class Finetuning(TypedDict):
    before: NotRequired[dict[str, Figures] | None]
    after: NotRequired[After]
    is_comparable: NotRequired[bool]


PROBES: dict[str, Any] = {"pos": PosProbe, "wsd": WsdProbe, "pairs": PairsProbe}


@dataclass
class Findings:
    """All that was found, by the name that the page shows: the folder or file, seen from where the search began."""

    studies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pos: dict[str, PosProbe] = field(default_factory=dict)
    wsd: dict[str, WsdProbe] = field(default_factory=dict)
    pairs: dict[str, PairsProbe] = field(default_factory=dict)
    neighbors: dict[str, Neighbors] = field(default_factory=dict)
    finetunings: dict[str, Finetuning] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return not any(vars(self).values())


def find_results(folders: Sequence[str]) -> Findings:
    """Read all results under the folders. Raises DataError for a damaged one, ConfigError where there is none."""
    findings = Findings()
    names = [local_path(given).name for given in folders]
    for given in folders:
        folder = local_path(given)
        prefix = folder.name if names.count(folder.name) == 1 else given.rstrip("/")
        if not folder.is_dir():
            raise ConfigError(f"{given} is no folder; give one that holds studies, probes' JSON files or fine-tunings")
        for path in _json_files(folder):
            name = str(path.relative_to(folder))
            _take(findings, path, name if len(folders) == 1 else f"{prefix}/{name}")
    if findings.is_empty:
        raise ConfigError(
            f"{', '.join(folders)} holds no results; give folders in which `elmo study`, `elmo finetune`, or with "
            "output=FILE.json `elmo probe` and `elmo neighbors` have written some"
        )
    return findings


def _json_files(folder: Path) -> Iterator[Path]:
    """Yield files in an order that does not depend on the file system."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        yield from (Path(parent) / file for file in sorted(files) if file.endswith(".json"))


def _take(findings: Findings, path: Path, name: str) -> None:
    remedy = "delete it, or make it again"
    if path.name == RESULTS:
        runs: list[dict[str, Any]] = load_json(path, list[Run], remedy)
        if runs:
            findings.studies[_folder(name)] = runs
    elif path.name == FINETUNING:
        record: Finetuning = load_json(path, Finetuning, remedy)
        if "after" in record:
            findings.finetunings[_folder(name)] = record
    else:
        _take_by_content(findings, path, name, remedy)


def _take_by_content(findings: Findings, path: Path, name: str, remedy: str) -> None:
    if path.stat().st_size > _MOST_BYTES:
        return
    try:
        content = load_json(path, dict[str, Any], remedy)
    except DataError:  # another program's file
        return
    probe = content.get("probe")
    if isinstance(probe, str) and probe in PROBES:
        getattr(findings, probe)[name] = load_json(path, PROBES[probe], remedy)
    elif content.keys() >= Neighbors.__annotations__.keys():
        found: Neighbors = load_json(path, Neighbors, remedy)
        if any(o["position"] >= len(o["words"]) for o in (found["query"], *found["neighbors"])):
            raise DataError(f"{path}: the position of a word is beyond its sentence; {remedy}")
        findings.neighbors[name] = found


def _folder(name: str) -> str:
    return name.rpartition("/")[0] or "."
