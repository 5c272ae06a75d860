"""Pass 2: merge the lexicons of all spills and set the bounds of the shards. One process; it reads types, not text."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.dataset.files import DataError, atomic_file, map_npy, sha256_of, write_json, write_npy, xxh3_64_of
from data_prep.dataset.index import MAX_INDEX_BYTES, FileEntry, LexiconEntry, Xxh3
from data_prep.dataset.lexicon import EOS_ID, SPECIALS, UNK_ID, Lexicon
from data_prep.dataset.lexicon import FILES as LEXICON_FILES
from data_prep.dataset.summary import Figures
from data_prep.dataset.typed_json import Count, load_json
from data_prep.passes.encode import UnitRecord, read_record
from data_prep.passes.shard_bounds import Bounds, shard_bounds
from data_prep.passes.sorted_spills import Ids, Spill
from data_prep.plan import PrepPlan
from data_prep.workers import ReportProgress
from data_prep.workspace import SKIPPED, WORK_REMEDY, Workspace

VOCABULARY_SIZES = (10_000, 50_000, 100_000, 200_000, 500_000, 793_471)
CUT_BYTES = 48  # UTF-8 bytes of a word that ELMo reads: 50 character ids less begin and end of word
_UNK = SPECIALS[UNK_ID].encode()
_LISTED_FAULTS = 20
_MOST_CHUNKS = MAX_INDEX_BYTES // 96  # bytes of a chunk in the index


@dataclass(frozen=True)
class MergeRecord:
    """Result of pass 2: the lexicon's entry in the index, figures for the summary, number of shards of each split.

    bounds: XXH3-64 of the file of each split's bounds.
    """

    lexicon: LexiconEntry
    figures: Figures
    shards: dict[str, Count]
    bounds: dict[str, Xxh3]


def finished_spills(work: Workspace, plan: PrepPlan) -> tuple[list[Spill], list[str], list[UnitRecord]]:
    """Return all spills in order, the split of each one's input, and the records of all units."""
    spills, splits, records = [], [], []
    for unit in plan.units:
        record = read_record(work, unit.number)
        records.append(record)
        spills += [Spill(work.unit_folder(unit.number) / f"spill-{i:04d}") for i in range(len(record.spill_tokens))]
        splits += [plan.source_of(unit).split] * len(record.spill_tokens)
    return spills, splits, records


def merge(output: Path, report: ReportProgress) -> None:
    """Write and record the lexicon, the map of each spill, the bounds of the shards and the list of skipped lines."""
    work = Workspace(output)
    plan = PrepPlan.load(work.plan)
    spills, splits, records = finished_spills(work, plan)
    if not work.merge_record.exists():
        _merge(work, plan, spills, splits, records, report)
    for spill in spills:  # only after the record is written: until then a rerun needs the lexicons
        spill.delete_lexicon()


def _merge(
    work: Workspace,
    plan: PrepPlan,
    spills: list[Spill],
    splits: list[str],
    records: list[UnitRecord],
    report: ReportProgress,
) -> None:
    _check_splits(plan, splits)
    bounds = shard_bounds(spills, splits, plan.options)
    _check_chunks(sum(bound.num_tokens for bound in bounds.values()), plan.options.chunk_tokens)
    lexicon, heldout_counts = _merge_lexicons(spills, bounds, report)
    lexicon.write(work.output)
    for split, bound in bounds.items():
        write_bounds(work, split, bound)
    figures = Figures(**_text_figures(plan, records, bounds), **_lexicon_figures(lexicon, heldout_counts))
    _write_skipped(work, plan, records)
    shards = {split: bound.num_shards for split, bound in bounds.items()}
    checksums = {split: xxh3_64_of(_bounds_path(work, split)) for split in bounds}
    write_json(work.merge_record, asdict(MergeRecord(lexicon_entry(work.output, lexicon), figures, shards, checksums)))


def read_merge_record(work: Workspace) -> MergeRecord:
    """Return the record that merge() wrote. Raises DataError if it does not name the same splits throughout."""
    record: MergeRecord = load_json(work.merge_record, MergeRecord, WORK_REMEDY)
    if record.shards.keys() != record.bounds.keys():
        raise DataError(
            f"{work.merge_record} has shards of {sorted(record.shards)} and bounds of "
            f"{sorted(record.bounds)}; {WORK_REMEDY}"
        )
    return record


def write_bounds(work: Workspace, split: str, bounds: Bounds) -> None:
    """Write the bounds of a split's shards for read_bounds()."""
    work.bounds.mkdir(exist_ok=True)
    write_npy(_bounds_path(work, split), np.stack([bounds.sentences, bounds.tokens]))


def read_bounds(work: Workspace, split: str) -> Bounds:
    """Return the bounds of a split's shards. Raises DataError if they are not those that merge() wrote."""
    path = _bounds_path(work, split)
    if not path.exists() or xxh3_64_of(path) != read_merge_record(work).bounds.get(split):
        raise DataError(f"{path} is missing or damaged; {WORK_REMEDY}")
    sentences, tokens = map_npy(path, np.int64, ndim=3)
    if tokens.shape[1] != read_merge_record(work).shards.get(split, 0) + 1:
        raise DataError(f"{path} bounds {tokens.shape[1] - 1} shards, which is not the number recorded; {WORK_REMEDY}")
    return Bounds(sentences, tokens)


def _bounds_path(work: Workspace, split: str) -> Path:
    return work.bounds / f"{split}.npy"


def _check_splits(plan: PrepPlan, splits: Sequence[str]) -> None:
    for split in {source.split for source in plan.sources} | {"train"}:
        if split not in splits:
            names = ", ".join(source.path for source in plan.sources if source.split == split)
            raise DataError(f"there is no {split} text: {names or 'no input'} holds no sentence; name files with text")


def _check_chunks(tokens: int, chunk_tokens: int) -> None:
    """Raise DataError if the index would list more chunks than any index may."""
    if tokens // chunk_tokens > _MOST_CHUNKS:
        raise DataError(
            f"chunk_tokens={chunk_tokens:,} would cut {tokens:,} tokens into more than {_MOST_CHUNKS:,} chunks; use "
            f"chunk_tokens={-(-tokens // _MOST_CHUNKS)} or more"
        )


def _merge_lexicons(
    spills: Sequence[Spill], bounds: dict[str, Bounds], report: ReportProgress
) -> tuple[Lexicon, np.ndarray]:
    """Write each spill's map to lexicon ids; return the lexicon and (types,) int64 counts in the held-out split."""
    ids: Ids[bytes] = Ids()
    for number, spill in enumerate(spills):
        words = spill.words()
        spill.write_map(np.fromiter(map(ids.__getitem__, words), np.int32, len(words)))
        report(number + 1, 0)
    train, heldout = (np.zeros(len(ids), np.int64) for _ in range(2))
    for number, spill in enumerate(spills):
        in_heldout = _counts_in(spill, number, bounds.get("heldout"))
        merged = spill.read_map()  # no id occurs twice in a spill, so += counts each
        heldout[merged] += in_heldout[1:]
        train[merged] += spill.counts[1:] - in_heldout[1:]
    words = list(ids)
    ids.clear()
    order = _order(words, train, heldout)
    global_ids = np.full(len(words), -1, np.int32)
    global_ids[order] = np.arange(len(SPECIALS), len(SPECIALS) + len(order))
    unknown = words.index(_UNK) if _UNK in words else None
    if unknown is not None:
        global_ids[unknown] = UNK_ID
    for spill in spills:
        spill.write_map(np.concatenate([[np.int32(EOS_ID)], global_ids[spill.read_map()]]))
    lines = bounds["train"].num_sentences, bounds["heldout"].num_sentences if "heldout" in bounds else 0
    specials = [[0, lines[i], 0 if unknown is None else counts[unknown]] for i, counts in enumerate((train, heldout))]
    spellings = [*(word.encode() for word in SPECIALS), *(words[i] for i in order.tolist())]
    lexicon = Lexicon.from_words(spellings, np.concatenate([specials[0], train[order]]))
    return lexicon, np.concatenate([specials[1], heldout[order]])


def _counts_in(spill: Spill, number: int, bounds: Bounds | None) -> np.ndarray:
    """Return (local types,) int64: occurrences of each type in the held-out part of the spill."""
    counts = spill.counts
    if bounds is None:
        return 0 * counts
    start, stop = int(bounds.tokens[number, 0]), int(bounds.tokens[number, -1])
    if stop - start == counts.sum():
        return counts
    found = np.bincount(spill.tokens(start, stop), minlength=len(counts))
    if len(found) != len(counts):
        raise spill.damaged("tokens.u24")
    return found


def _order(words: list[bytes], train: np.ndarray, heldout: np.ndarray) -> np.ndarray:
    """Return the indices of words that occur, without <UNK>, by falling count in train, then by bytes."""
    by_bytes = np.array(sorted(range(len(words)), key=words.__getitem__), np.int64)
    occurs = (train + heldout)[by_bytes] > 0  # a word of skipped lines only has count 0
    by_bytes = by_bytes[occurs]
    order = by_bytes[np.argsort(-train[by_bytes], kind="stable")]
    return order[[words[i] != _UNK for i in order.tolist()]] if _UNK in words else order


def lexicon_entry(output: Path, lexicon: Lexicon) -> LexiconEntry:
    """Return the entry in index.json of a lexicon that was written into `output`."""
    files: dict[str, FileEntry] = {
        name: {
            "bytes": (output / name).stat().st_size,
            "sha256": sha256_of(output / name),
            "xxh3_64": xxh3_64_of(output / name),
        }
        for name in LEXICON_FILES
    }
    return {"types": len(lexicon), "files": files}


def _text_figures(plan: PrepPlan, records: Sequence[UnitRecord], bounds: dict[str, Bounds]) -> dict[str, Any]:
    skipped = _skipped_lines(plan, records)
    read_by_source = {source.label: 0 for source in plan.sources}
    for unit, record in zip(plan.units, records, strict=True):
        read_by_source[plan.source_of(unit).label] += record.sentences
    return {
        "lines": sum(record.lines for record in records),
        "empty_lines": sum(record.empty_lines for record in records),
        "sentences": {split: bound.num_sentences for split, bound in bounds.items()},
        "words": {split: bound.num_tokens - bound.num_sentences for split, bound in bounds.items()},
        "repaired_characters": sum(record.repaired for record in records),
        "skipped_lines": len(skipped),
        "first_skipped": [f"{label}:{line}: {fault}" for label, line, fault in skipped[:_LISTED_FAULTS]],
        "inputs_without_text": sorted(label for label, number in read_by_source.items() if not number),
    }


def _lexicon_figures(lexicon: Lexicon, heldout: np.ndarray) -> dict[str, Any]:
    counts = {"train": np.array(lexicon.counts), "heldout": heldout}
    is_cut = lexicon.byte_lengths() > CUT_BYTES
    words = {split: int(count[UNK_ID:].sum()) for split, count in counts.items()}
    total = sum(words.values())
    return {
        "types": len(lexicon) - len(SPECIALS),
        "unk_words": int(sum(count[UNK_ID] for count in counts.values())),
        "cut_words_share": float(sum(count[is_cut].sum() for count in counts.values()) / total),
        "cut_types": int(is_cut.sum()),
        "oov_share": {
            split: {
                size: float((count[size:].sum() + count[UNK_ID]) / words[split])
                for size in VOCABULARY_SIZES
                if size < len(lexicon)
            }
            for split, count in counts.items()
            if words[split]
        },
    }


def _skipped_lines(plan: PrepPlan, records: Sequence[UnitRecord]) -> list[tuple[str, int, str]]:
    """Return (label, line number from 1, fault) of every skipped line."""
    found, first_line = [], 0
    for unit, record in zip(plan.units, records, strict=True):
        first_line = 0 if unit.start == 0 else first_line
        found += [(plan.source_of(unit).label, first_line + line + 1, fault) for line, fault in record.skipped]
        first_line += record.lines
    return found


def _write_skipped(work: Workspace, plan: PrepPlan, records: Sequence[UnitRecord]) -> None:
    if skipped := _skipped_lines(plan, records):
        with atomic_file(work.output / SKIPPED) as file:
            file.writelines(f"{label}\t{line}\t{fault}\n".encode() for label, line, fault in skipped)
