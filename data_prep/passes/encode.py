"""Pass 1: turn one unit of input into spills. No later pass reads the text."""

import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_prep.dataset.files import DataError, sync_folder, write_json
from data_prep.dataset.typed_json import Count, load_json
from data_prep.options import PrepConfig
from data_prep.passes.sorted_spills import MARK_ID, SPILL_TOKENS, Ids, write_spill
from data_prep.plan import PrepPlan, Unit
from data_prep.text.clean import MARK, clean
from data_prep.text.corpus import Block, Source, read_blocks
from data_prep.text.faults import Fault, are_enough, error_of
from data_prep.text.tokenizer import Tokenizer
from data_prep.workers import ReportProgress
from data_prep.workspace import WORK_REMEDY, Workspace

SKIP_REMEDY = "let elmo prep skip such lines: on_error=skip"


@dataclass
class UnitRecord:
    """Result of encoding a unit, for the later passes.

    skipped: pairs of a line number in the unit, from 0, and its fault. repaired: control characters of running text
    that were replaced. spill_tokens: tokens of each spill.
    """

    lines: Count
    empty_lines: Count
    sentences: Count
    words: Count
    repaired: Count
    skipped: list[tuple[Count, str]]
    spill_tokens: list[Count]


def encode_lines(text: str, ids: Ids[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens (int32, MARK_ID after each line) and lengths (int64, mark included) of a text of whole lines."""
    words = text.replace("\n", f" {MARK} ").split()
    tokens = np.fromiter(map(ids.__getitem__, words), np.int32, len(words))
    return tokens, np.diff(np.flatnonzero(tokens == MARK_ID), prepend=-1)


class _Keys:
    """Draw a random key for each sentence, or each document, of a unit: a function of (seed, unit, number) only."""

    def __init__(self, options: PrepConfig, unit: int) -> None:
        self._random = np.random.Philox(key=[options.seed, unit])
        self._documents = options.shuffle == "documents"
        self._document_key = self._random.random_raw(1)

    def of(self, kept: np.ndarray, ends_document: np.ndarray) -> np.ndarray:
        """Return (kept.sum(),) uint64: keys of the block's kept lines. ends_document (lines,): True for empty lines."""
        if not self._documents:
            return self._random.random_raw(int(kept.sum()))
        keys = np.concatenate([self._document_key, self._random.random_raw(int(ends_document.sum()))])
        self._document_key = keys[-1:]
        return keys[np.cumsum(ends_document)[kept]]


class _SpillBuffer:
    """Collect sentences and write a spill whenever SPILL_TOKENS are reached."""

    def __init__(self, folder: Path, record: UnitRecord, keep_order: bool) -> None:
        self._folder, self._record, self._keep_order = folder, record, keep_order
        self._clear()

    def _clear(self) -> None:
        self.ids = Ids({MARK: MARK_ID})
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._num_tokens = 0

    def add(self, tokens: np.ndarray, lengths: np.ndarray, keys: np.ndarray) -> None:
        self._parts.append((tokens, lengths, keys))
        self._num_tokens += len(tokens)
        if self._num_tokens >= SPILL_TOKENS:
            self.flush()

    def flush(self) -> None:
        if self._num_tokens:
            tokens, lengths, keys = (np.concatenate(part) for part in zip(*self._parts, strict=True))
            words = list(self.ids)[1:]
            folder = self._folder / f"spill-{len(self._record.spill_tokens):04d}"
            self._parts.clear()
            write_spill(folder, tokens, lengths, None if self._keep_order else keys, words)
            self._record.spill_tokens.append(len(tokens))
        self._clear()


class _UnitEncoder:
    """Encode the text of one unit, block by block, into spills."""

    def __init__(self, plan: PrepPlan, unit: Unit, folder: Path) -> None:
        self.options, self.unit, self.source = plan.options, unit, plan.source_of(unit)
        self.record = UnitRecord(lines=0, empty_lines=0, sentences=0, words=0, repaired=0, skipped=[], spill_tokens=[])
        self._keys = _Keys(self.options, unit.number)
        self._spills = _SpillBuffer(folder, self.record, self.options.shuffle == "none")
        self._tokenizer = Tokenizer(self.options.language) if self.options.tokenize else None
        self._document_tokens = 0
        self._words_before_fault = 0

    def add(self, block: Block) -> None:
        """Add the block's sentences to the spills and record its faults."""
        if not self.record.skipped:
            self._words_before_fault = self.record.words
        text, faults, repaired = clean(block, self.options.tokenize)
        self.record.repaired += repaired
        self.record.skipped += [(block.first_line + line, fault) for line, fault in faults.items()]
        skipped = np.array([block.first_line + line for line in faults], np.int64)
        lines = np.arange(block.first_line, block.first_line + text.count("\n"))
        self.record.lines += len(lines)
        if self._tokenizer:
            text, sentences_a_line = self._tokenizer.split(text)
            lines = np.repeat(lines, sentences_a_line)
        tokens, lengths = encode_lines(text, self._spills.ids)
        too_long = lengths - 1 > self.options.max_sentence_words
        self.record.skipped += [
            (int(line), self._too_long(int(length) - 1))
            for line, length in zip(lines[too_long], lengths[too_long], strict=True)
        ]
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
        self._spills.add(tokens, lengths, keys)

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

    @property
    def has_read_enough(self) -> bool:
        """Whether faults were found, and enough text was read after the first one to report an error."""
        return are_enough(len(self.record.skipped), self.record.words - self._words_before_fault)

    def finish(self) -> UnitRecord:
        """Write the last spill and return the unit's record."""
        self._spills.flush()
        return self.record


def faults_of(plan: PrepPlan, unit: Unit, record: UnitRecord) -> list[Fault]:
    """Return what is wrong with the unit's lines, by their numbers in the file."""
    source = plan.source_of(unit)
    before = _lines_before(source, unit.start) if unit.start and record.skipped else 0
    return [Fault(source.path, before + line + 1, what) for line, what in record.skipped]


def _lines_before(source: Source, position: int) -> int:
    count = 0
    with open(source.path, "rb") as file:
        while position > 0 and (data := file.read(min(position, 1 << 20))):
            count, position = count + data.count(b"\n"), position - len(data)
    return count


def encode_unit(output: Path, number: int, report: ReportProgress) -> None:
    """Encode and record unit `number` of the plan, unless it is recorded already.

    Faulty lines are left out and recorded for either value of on_error; FaultWatch applies on_error to the records.
    With on_error=fail a long unit, or one with many faults, is not read to its end and raises DataError.
    """
    work = Workspace(output)
    if work.unit_record(number).exists():
        return
    plan = PrepPlan.load(work.plan)
    temporary, folder = work.temporary_folder(f"unit-{number:06d}"), work.unit_folder(number)
    try:
        unit = plan.units[number]
        encoder = _UnitEncoder(plan, unit, temporary)
        for block, num_bytes in _blocks(plan, unit):
            encoder.add(block)
            report(num_bytes, encoder.record.words)
            if plan.options.on_error == "fail" and encoder.has_read_enough:
                raise error_of(faults_of(plan, unit, encoder.record), SKIP_REMEDY)
        plan.source_of(unit).refuse_changed()
        record = encoder.finish()
        shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed before it recorded the unit
        os.replace(temporary, folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    write_json(work.unit_record(number), asdict(record))


def _blocks(plan: PrepPlan, unit: Unit) -> Iterator[tuple[Block, int]]:
    return read_blocks(plan.source_of(unit).path, unit.start, unit.stop)


def read_record(work: Workspace, number: int) -> UnitRecord:
    """Return the record of a finished unit."""
    record: UnitRecord = load_json(work.unit_record(number), UnitRecord, WORK_REMEDY)
    return record


class FaultWatch:
    """End pass 1 with one error that lists the faults of all units, if on_error=fail. Encoded units are kept."""

    def __init__(self, work: Workspace, plan: PrepPlan) -> None:
        self._work, self._plan = work, plan
        self._fails = plan.options.on_error == "fail"
        self._found: list[Fault] = []
        self._words = 0

    def check(self, units: Iterable[Unit]) -> None:
        """Raise DataError if these encoded units have faults."""
        for unit in units:
            self.unit_ended(unit.number)
        self.pass_ended()

    def unit_ended(self, number: int) -> None:
        """Add the unit's faults; raise DataError if there are faults and enough was read after the first one."""
        if self._fails:
            record = read_record(self._work, number)
            self._words += record.words if self._found else 0
            self._found += faults_of(self._plan, self._plan.units[number], record)
            if are_enough(len(self._found), self._words):
                self.pass_ended()

    def pass_ended(self) -> None:
        """Raise DataError if faults were found."""
        if self._found:
            raise error_of(self._found, SKIP_REMEDY)
