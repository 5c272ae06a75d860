"""The summary of a preparation, as a value and as a printed table."""

import json
import logging
from dataclasses import dataclass, field
from typing import Any, Literal

from typing_extensions import TypedDict

from data_prep.dataset.files import DataError
from data_prep.dataset.index import Index, information_sha256
from data_prep.dataset.lexicon import SPECIALS
from data_prep.dataset.typed_json import Count, parse_json

log = logging.getLogger(__name__)
_AnyOther = {"extra": "allow"}  # pydantic's setting: keep keys that a later version adds


class Figures(TypedDict, total=False):
    """Counts of pass 2, in index.json under "summary". Meanings: see Summary."""

    __pydantic_config__ = _AnyOther  # type: ignore[misc]

    lines: Count
    empty_lines: Count
    sentences: dict[str, Count]
    words: dict[str, Count]
    skipped_lines: Count
    first_skipped: list[str]
    inputs_without_text: list[str]
    types: Count
    unk_words: Count
    repaired_characters: Count
    cut_words_share: float
    cut_types: Count
    oov_share: dict[str, dict[str, float]]


class Input(TypedDict):
    """An input file, as index.json names it."""

    name: str
    bytes: Count
    split: str


class Made(TypedDict, total=False):
    """Options and inputs of a dataset, in index.json under "made"."""

    options: dict[str, Any]
    inputs: list[Input]


def informing(index: Index, section: Literal["made", "summary"], schema: Any) -> Any:
    """Return a section of the index that is information only, typed by its schema.

    A damaged section is logged as a warning, and an empty one is returned.
    """
    name, remedy = f'"{section}" of the index', "it only informs and is left out"
    if index.get("information_sha256") != information_sha256(index.get("made"), index.get("summary")):
        log.warning("%s does not match its checksum, so it was changed or damaged; %s", name, remedy)
        return {}
    try:
        return parse_json(json.dumps(index.get(section, {})).encode(), schema, name, remedy)
    except DataError as error:
        log.warning("%s", error)
        return {}


@dataclass(frozen=True)
class Summary:
    """Figures of a dataset. Word counts do not include sentence ends.

    sentences, words: of all splits together; *_by_split: of each split. types: without <S>, </S>, <UNK>.
    oov_share: {split: {vocabulary size: share of the split's words outside a vocabulary of this size}}.
    repaired_characters: control characters of running text that were replaced (clean.py).
    cut_words_share: share of words longer than 48 UTF-8 bytes, of which ELMo reads only the beginning.
    seconds: of this call, all passes. pending: "", or what a step of a job array leaves to be done.
    """

    location: str
    sentences: int = 0
    words: int = 0
    types: int = 0
    cut_words_share: float = 0.0
    oov_share: dict[str, dict[int, float]] = field(default_factory=dict)
    sentences_by_split: dict[str, int] = field(default_factory=dict)
    words_by_split: dict[str, int] = field(default_factory=dict)
    shards: int = 0
    bytes: int = 0
    lines: int = 0
    empty_lines: int = 0
    skipped_lines: int = 0
    first_skipped: list[str] = field(default_factory=list)
    unk_words: int = 0
    repaired_characters: int = 0
    inputs_without_text: list[str] = field(default_factory=list)
    fingerprint: str = ""
    seconds: float = 0.0
    pending: str = ""
    already_done: bool = False

    @classmethod
    def from_index(cls, location: str, index: Index, seconds: float = 0.0, already_done: bool = False) -> "Summary":
        """Return the summary of a finished dataset, from its index."""
        figures: Figures = informing(index, "summary", Figures)
        splits = index["splits"].values()
        shards = [shard for split in splits for shard in split["shards"]]
        lexicon_bytes = sum(entry["bytes"] for entry in index["lexicon"]["files"].values())
        sentences = {name: split["sentences"] for name, split in index["splits"].items()}
        words = {name: split["tokens"] - split["sentences"] for name, split in index["splits"].items()}
        return cls(
            location,
            sum(sentences.values()),
            sum(words.values()),
            types=index["lexicon"]["types"] - len(SPECIALS),
            cut_words_share=figures.get("cut_words_share", 0.0),
            oov_share=_by_size(figures.get("oov_share", {})),
            sentences_by_split=sentences,
            words_by_split=words,
            shards=len(shards),
            bytes=lexicon_bytes + sum(shard["bytes"] for shard in shards),
            lines=figures.get("lines", 0),
            empty_lines=figures.get("empty_lines", 0),
            skipped_lines=figures.get("skipped_lines", 0),
            first_skipped=figures.get("first_skipped", []),
            unk_words=figures.get("unk_words", 0),
            inputs_without_text=figures.get("inputs_without_text", []),
            fingerprint=index["fingerprint"],
            seconds=seconds,
            already_done=already_done,
            repaired_characters=figures.get("repaired_characters", 0),
        )

    def __str__(self) -> str:
        if self.pending:
            return f"{self.location}: {self.pending}"
        rows = [("dataset", self.location), ("fingerprint", self.fingerprint[:16])]
        for split, words in self.words_by_split.items():
            rows.append((split, f"{words:,} words in {self.sentences_by_split[split]:,} sentences"))
        rows.append(("word types", f"{self.types:,}"))
        rows.append(("words over 48 bytes", f"{self.cut_words_share:.4%}"))
        rows += self._oov_rows()
        rows.append(("shards", f"{self.shards} ({self.bytes / 1e6:,.1f} MB with the lexicon)"))
        rows += self._notes()
        rows.append(
            (
                "time",
                "none: it was prepared already, with the same input and options"
                if self.already_done
                else f"{self.seconds:,.1f} s ({self.words / max(self.seconds, 1e-9) / 1e6:.2f} M words/s)",
            )
        )
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _oov_rows(self) -> list[tuple[str, str]]:
        sizes = sorted({size for shares in self.oov_share.values() for size in shares})
        return [
            (
                f"outside {size:,} entries",
                ", ".join(
                    f"{shares[size]:.2%} of {split}" for split, shares in self.oov_share.items() if size in shares
                ),
            )
            for size in sizes
        ]

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


def _by_size(shares: dict[str, dict[str, float]]) -> dict[str, dict[int, float]]:
    return {split: {int(size): share for size, share in found.items() if size.isdecimal()}
            for split, found in shares.items()}  # fmt: skip
