"""The summary of a preparation, as a value and as a printed table."""

import json
import logging
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from typing_extensions import TypedDict

from data_prep.dataset.files import DataError
from data_prep.dataset.index import Index, information_sha256
from data_prep.dataset.lexicon import SPECIALS
from data_prep.dataset.typed_json import Count, parse_json

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class Figures:
    """Counts of pass 2, in index.json under "summary". Word counts do not include sentence ends.

    sentences, words: {split: number}. types: without <S>, </S>, <UNK>. oov_share: {split: {vocabulary size: share of
    the split's words outside a vocabulary of this size}}. repaired_characters: control characters of running text that
    were replaced (clean.py). cut_words_share: share of words longer than 48 UTF-8 bytes, of which ELMo reads only the
    beginning.
    """

    lines: Count = 0
    empty_lines: Count = 0
    sentences: dict[str, Count] = field(default_factory=dict)
    words: dict[str, Count] = field(default_factory=dict)
    skipped_lines: Count = 0
    first_skipped: list[str] = field(default_factory=list)
    inputs_without_text: list[str] = field(default_factory=list)
    types: Count = 0
    unk_words: Count = 0
    repaired_characters: Count = 0
    cut_words_share: float = 0.0
    cut_types: Count = 0
    oov_share: dict[str, dict[int, float]] = field(default_factory=dict)


class Input(TypedDict):
    """An input file, as index.json names it."""

    name: str
    bytes: Count
    split: str


@dataclass(frozen=True)
class Made:
    """Options and inputs of a dataset, in index.json under "made"."""

    options: dict[str, Any] = field(default_factory=dict)
    inputs: list[Input] = field(default_factory=list)


def informing(index: Index, section: Literal["made", "summary"], schema: type[T]) -> T:
    """Return a section of the index that is information only, typed by its schema.

    A damaged section is logged as a warning, and an empty one is returned.
    """
    name, remedy = f'"{section}" of the index', "it only informs and is left out"
    if index.get("information_sha256") != information_sha256(index.get("made"), index.get("summary")):
        log.warning("%s does not match its checksum, so it was changed or damaged; %s", name, remedy)
        return schema()
    try:
        found: T = parse_json(json.dumps(index.get(section, {})).encode(), schema, name, remedy)
        return found
    except DataError as error:
        log.warning("%s", error)
        return schema()


@dataclass(frozen=True)
class Summary(Figures):
    """Figures of a dataset. seconds: of this call, all passes. pending: "", or what a step leaves to be done."""

    location: str = ""
    fingerprint: str = ""
    shards: int = 0
    bytes: int = 0
    seconds: float = 0.0
    pending: str = ""
    already_done: bool = False

    @classmethod
    def from_index(cls, location: str, index: Index, seconds: float = 0.0, already_done: bool = False) -> "Summary":
        """Return the summary of a finished dataset, from its index."""
        splits = index["splits"]
        shards = [shard for split in splits.values() for shard in split["shards"]]
        lexicon_bytes = sum(entry["bytes"] for entry in index["lexicon"]["files"].values())
        known: dict[str, Any] = {
            "types": index["lexicon"]["types"] - len(SPECIALS),
            "sentences": {name: split["sentences"] for name, split in splits.items()},
            "words": {name: split["tokens"] - split["sentences"] for name, split in splits.items()},
            "shards": len(shards),
            "bytes": lexicon_bytes + sum(shard["bytes"] for shard in shards),
            "fingerprint": index["fingerprint"],
        }
        figures = vars(informing(index, "summary", Figures)) | known
        return cls(location=location, seconds=seconds, already_done=already_done, **figures)

    @property
    def num_sentences(self) -> int:
        return sum(self.sentences.values())

    @property
    def num_words(self) -> int:
        return sum(self.words.values())

    def __str__(self) -> str:
        if self.pending:
            return f"{self.location}: {self.pending}"
        rows = [("dataset", self.location), ("fingerprint", self.fingerprint[:16])]
        for split, words in self.words.items():
            rows.append((split, f"{words:,} words in {self.sentences[split]:,} sentences"))
        rows.append(("word types", f"{self.types:,}"))
        rows.append(("words over 48 bytes", f"{self.cut_words_share:.4%}"))
        rows += self._oov_rows()
        rows.append(("shards", f"{self.shards} ({self.bytes / 1e6:,.1f} MB with the lexicon)"))
        rows += self._notes()
        speed = self.num_words / max(self.seconds, 1e-9) / 1e6
        before = "none: it was prepared already, with the same input and options"
        rows.append(("time", before if self.already_done else f"{self.seconds:,.1f} s ({speed:.2f} M words/s)"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _oov_rows(self) -> list[tuple[str, str]]:
        rows = []
        for size in sorted({size for shares in self.oov_share.values() for size in shares}):
            shares = [f"{found[size]:.2%} of {split}" for split, found in self.oov_share.items() if size in found]
            rows.append((f"outside {size:,} entries", ", ".join(shares)))
        return rows

    def _notes(self) -> list[tuple[str, str]]:
        rows = []
        if self.empty_lines:
            rows.append(("empty lines", f"{self.empty_lines:,} of {self.lines:,}"))
        if self.unk_words:
            rows.append(("<UNK> in the text", f"{self.unk_words:,} words"))
        if self.repaired_characters:
            what = "read as Windows-1252 or white space"
            rows.append(("control characters", f"{self.repaired_characters:,}, {what}"))
        rows += [("warning", f"no text in {label}") for label in self.inputs_without_text]
        if self.skipped_lines:
            rows.append(("skipped lines", f"{self.skipped_lines:,}; all are listed in skipped.tsv"))
            rows += [("", fault) for fault in self.first_skipped]
        return rows
