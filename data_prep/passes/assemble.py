"""Pass 3: merge a slice of every spill into one shard, sentences in the order of their keys."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_prep.dataset.files import write_json
from data_prep.dataset.shards import write_shard
from data_prep.passes.merge import finished_spills, read_bounds
from data_prep.passes.shard_bounds import Bounds
from data_prep.passes.sorted_spills import gather, part_bounds
from data_prep.plan import PrepPlan
from data_prep.workers import ReportProgress
from data_prep.workspace import Workspace

# An epoch permutes chunks. A small corpus needs small chunks, or all its epochs would have much the same order.
_CHUNKS, _LEAST_CHUNK_TOKENS = 1024, 4096


def assemble_shard(output: Path, split: str, number: int, report: ReportProgress) -> None:
    """Write and record shard `number` of a split, unless it is recorded already."""
    work = Workspace(output)
    record = work.shard_record(split, number)
    if record.exists():
        return
    plan = PrepPlan.load(work.plan)
    bounds = read_bounds(work, split)
    tokens, lengths, order = _collect(work, plan, bounds, number)
    num_words = len(tokens) - len(lengths)
    chunk_tokens = min(plan.options.chunk_tokens, max(_LEAST_CHUNK_TOKENS, bounds.num_tokens // _CHUNKS))
    entry = write_shard(output, split, number, _chunks(tokens, lengths, order, chunk_tokens))
    write_json(record, entry)
    report(len(tokens), num_words)


def _collect(work: Workspace, plan: PrepPlan, bounds: Bounds, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the shard's tokens (int32 lexicon ids) and sentence lengths, spill by spill, and the sentences' order."""
    token_bounds = bounds.tokens[:, number : number + 2]
    tokens = np.empty(int((token_bounds[:, 1] - token_bounds[:, 0]).sum()), np.int32)
    lengths, keys, filled = [], [], 0
    for index, spill in enumerate(finished_spills(work, plan)[0]):
        first, stop = bounds.sentences[index, number : number + 2].tolist()
        if first < stop:
            part = spill.merged_tokens(*token_bounds[index].tolist())
            tokens[filled : filled + len(part)] = part
            filled += len(part)
            lengths.append(spill.lengths[first:stop])
            keys.append(np.zeros(0, np.uint64) if spill.keys is None else spill.keys[first:stop])
    assert filled == len(tokens)
    joined_keys, joined_lengths = np.concatenate(keys), np.concatenate(lengths)
    kept_order = np.arange(len(joined_lengths))
    order = np.argsort(joined_keys, kind="stable") if len(joined_keys) else kept_order
    return tokens, joined_lengths, order


def _chunks(
    tokens: np.ndarray, lengths: np.ndarray, order: np.ndarray, chunk_tokens: int
) -> Iterator[tuple[np.ndarray, int]]:
    bounds = part_bounds(lengths[order], chunk_tokens)
    for (first, stop), chunk in zip(bounds, gather(tokens, lengths, order, chunk_tokens), strict=True):
        yield chunk, stop - first
