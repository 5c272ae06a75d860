"""What a preparation did, as a value and as a table to read."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Summary:
    """Figures of a dataset. Word counts leave sentence ends out.

    sentences, words: of all splits together; of each in *_by_split. types: without <S>, </S>, <UNK>.
    oov_share: {split: {vocabulary size: share of its words outside the first so many lexicon entries}}.
    repaired_characters: control characters of running text that were replaced (clean.py).
    cut_words_share: words longer than 48 UTF-8 bytes, of which ELMo reads only the beginning.
    seconds: of this call, all passes. pending: "" or, of a job-array step, what is still to be done.
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
    def from_index(
        cls, location: str, index: dict[str, Any], seconds: float = 0.0, already_done: bool = False
    ) -> "Summary":
        """The summary of a finished dataset, from its index."""
        figures, splits = index["summary"], index["splits"]
        shards = [shard for split in splits.values() for shard in split["shards"]]
        lexicon_bytes = sum(entry["bytes"] for entry in index["lexicon"]["files"].values())
        oov = {
            split: {int(size): share for size, share in shares.items()}
            for split, shares in figures["oov_share"].items()
        }
        same = {
            name: figures[name]
            for name in (
                "types",
                "cut_words_share",
                "lines",
                "empty_lines",
                "skipped_lines",
                "first_skipped",
                "unk_words",
                "inputs_without_text",
            )
        }
        return cls(
            location,
            sum(figures["sentences"].values()),
            sum(figures["words"].values()),
            oov_share=oov,
            sentences_by_split=figures["sentences"],
            words_by_split=figures["words"],
            shards=len(shards),
            bytes=lexicon_bytes + sum(shard["bytes"] for shard in shards),
            fingerprint=index["fingerprint"],
            seconds=seconds,
            already_done=already_done,
            repaired_characters=figures.get("repaired_characters", 0),  # not counted before
            **same,
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
