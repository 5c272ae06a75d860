"""Pass 1: one unit of input becomes runs. The text is read here and never again."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.clean import MARK, clean
from data_prep.corpus import Block, Source, read_blocks
from data_prep.files import DataError, sync_folder, write_json
from data_prep.plan import Options, Plan, Unit
from data_prep.runs import MARK_ID, RUN_TOKENS, write_run
from data_prep.tokenizer import Tokenizer
from data_prep.typed_json import Count, load_json
from data_prep.workers import Report
from data_prep.workspace import WORK_REMEDY, Workspace


@dataclass
class UnitRecord:
    """What a finished unit tells the later passes. skipped: [line in the unit from 0, fault]."""

    lines: Count
    empty_lines: Count
    sentences: Count
    words: Count
    skipped: list[tuple[Count, str]]
    run_tokens: list[Count]


class _Ids(dict[str, int]):
    """Local ids by first appearance. A dict that fills itself: no Python code runs for a word seen before."""

    def __init__(self) -> None:
        super().__init__({MARK: MARK_ID})

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self)
        return number


def encode_lines(text: str, ids: _Ids) -> tuple[np.ndarray, np.ndarray]:
    """tokens (int32, MARK_ID after each line) and lengths (int64, each with its mark) of a text of whole lines."""
    words = text.replace("\n", f" {MARK} ").split()
    tokens = np.fromiter(map(ids.__getitem__, words), np.int32, len(words))
    return tokens, np.diff(np.flatnonzero(tokens == MARK_ID), prepend=-1)


class _Keys:
    """The random keys of a unit's sentences, or of its documents: a function of (seed, unit, number) alone."""

    def __init__(self, options: Options, unit: int) -> None:
        self._random = np.random.Philox(key=[options.seed, unit])
        self._documents = options.shuffle == "documents"
        self._document_key = self._random.random_raw(1)

    def of(self, kept: np.ndarray, ends_document: np.ndarray) -> np.ndarray:
        """(kept.sum(),) uint64: keys of the block's kept lines. ends_document (lines,): True for an empty line."""
        if not self._documents:
            return self._random.random_raw(int(kept.sum()))
        keys = np.concatenate([self._document_key, self._random.random_raw(int(ends_document.sum()))])
        self._document_key = keys[-1:]
        return keys[np.cumsum(ends_document)[kept]]


class _RunBuffer:
    """Collects sentences and writes a run whenever it is full."""

    def __init__(self, folder: Path, record: UnitRecord, keep_order: bool) -> None:
        self._folder, self._record, self._keep_order = folder, record, keep_order
        self._clear()

    def _clear(self) -> None:
        self.ids = _Ids()
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._num_tokens = 0

    def add(self, tokens: np.ndarray, lengths: np.ndarray, keys: np.ndarray) -> None:
        self._parts.append((tokens, lengths, keys))
        self._num_tokens += len(tokens)
        if self._num_tokens >= RUN_TOKENS:
            self.flush()

    def flush(self) -> None:
        if self._num_tokens:
            tokens, lengths, keys = (np.concatenate(part) for part in zip(*self._parts, strict=True))
            words = list(self.ids)[1:]
            folder = self._folder / f"run-{len(self._record.run_tokens):04d}"
            self._parts.clear()
            write_run(folder, tokens, lengths, None if self._keep_order else keys, words)
            self._record.run_tokens.append(len(tokens))
        self._clear()


class _UnitEncoder:
    """The way of one unit's text from blocks of lines to runs."""

    def __init__(self, plan: Plan, unit: Unit, folder: Path) -> None:
        self.options, self.unit, self.source = plan.options, unit, plan.source_of(unit)
        self.record = UnitRecord(lines=0, empty_lines=0, sentences=0, words=0, skipped=[], run_tokens=[])
        self._keys = _Keys(self.options, unit.number)
        self._runs = _RunBuffer(folder, self.record, self.options.shuffle == "none")
        self._tokenizer = Tokenizer(self.options.language) if self.options.tokenize else None
        self._document_tokens = 0

    def add(self, block: Block) -> None:
        """The block's sentences are in the runs, its faults recorded or, with on_error=fail, raised."""
        text, faults = clean(block)
        self._note({block.first_line + line: fault for line, fault in faults.items()})
        skipped = np.array([block.first_line + line for line in faults], np.int64)
        lines = np.arange(block.first_line, block.first_line + text.count("\n"))
        self.record.lines += len(lines)
        if self._tokenizer:
            text, sentences_a_line = self._tokenizer.split(text)
            lines = np.repeat(lines, sentences_a_line)
        tokens, lengths = encode_lines(text, self._runs.ids)
        too_long = lengths - 1 > self.options.max_sentence_words
        if too_long.any():
            self._note(
                {
                    int(line): self._too_long(int(length) - 1)
                    for line, length in zip(lines[too_long], lengths[too_long], strict=True)
                }
            )
        empty = (lengths == 1) & ~np.isin(lines, skipped)
        self._keep(tokens, lengths, empty, (lengths > 1) & ~too_long)

    def _keep(self, tokens: np.ndarray, lengths: np.ndarray, empty: np.ndarray, kept: np.ndarray) -> None:
        keys = self._keys.of(kept, empty)
        if self.options.shuffle == "documents":
            self._check_documents(lengths, empty, kept)
        if not kept.all():
            tokens, lengths = tokens[np.repeat(kept, lengths)], lengths[kept]
        self.record.empty_lines += int(empty.sum())
        self.record.sentences += len(lengths)
        self.record.words += len(tokens) - len(lengths)
        self._runs.add(tokens, lengths, keys)

    def _check_documents(self, lengths: np.ndarray, empty: np.ndarray, kept: np.ndarray) -> None:
        document = np.cumsum(empty)
        tokens = np.bincount(document, np.where(kept, lengths, 0))
        tokens[0] += self._document_tokens
        self._document_tokens = int(tokens[-1])
        if tokens.max() > self.options.shard_tokens:
            raise DataError(
                f"{self.source.path} holds a document of more than shard_tokens="
                f"{self.options.shard_tokens:,} tokens; part documents by empty lines, or use "
                "shuffle=sentences or none"
            )

    def _too_long(self, num_words: int) -> str:
        return (
            f"has {num_words:,} words, more than max_sentence_words={self.options.max_sentence_words:,}; "
            "break it into sentences"
        )

    def _note(self, faults: dict[int, str]) -> None:
        if faults and self.options.on_error == "fail":
            line, fault = next(iter(faults.items()))
            raise DataError(
                f"{self.source.path}, line {self._line_in_file(line):,} {fault} (or skip such lines: on_error=skip)"
            )
        self.record.skipped += faults.items()

    def _line_in_file(self, line_in_unit: int) -> int:
        return 1 + line_in_unit + _lines_before(self.source, self.unit.start)

    def finish(self) -> UnitRecord:
        """All runs are written; returns the unit's record."""
        self._runs.flush()
        return self.record


def _lines_before(source: Source, position: int) -> int:
    count = 0
    with open(source.path, "rb") as file:
        while position > 0 and (data := file.read(min(position, 1 << 20))):
            count, position = count + data.count(b"\n"), position - len(data)
    return count


def encode_unit(output: Path, number: int, report: Report) -> None:
    """Unit `number` of the plan is encoded and recorded; one that was recorded before is left alone."""
    work = Workspace(output)
    if work.unit_record(number).exists():
        return
    plan = Plan.load(work.plan)
    temporary, folder = work.temporary_folder(f"unit-{number:06d}"), work.unit_folder(number)
    try:
        encoder = _UnitEncoder(plan, plan.units[number], temporary)
        for block, num_bytes in _blocks(plan, plan.units[number]):
            encoder.add(block)
            report(num_bytes, encoder.record.words)
        record = encoder.finish()
        shutil.rmtree(folder, ignore_errors=True)  # in place but not recorded: a run was killed in between
        os.replace(temporary, folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    write_json(work.unit_record(number), asdict(record))


def _blocks(plan: Plan, unit: Unit) -> Iterator[tuple[Block, int]]:
    return read_blocks(plan.source_of(unit).path, unit.start, unit.stop)


def read_record(work: Workspace, number: int) -> UnitRecord:
    """Return the record of a finished unit."""
    record: UnitRecord = load_json(work.unit_record(number), UnitRecord, WORK_REMEDY)
    return record
