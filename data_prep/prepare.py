"""Prepare a dataset from text in three passes: encode units of input, merge their lexicons, assemble shards.

Each pass is a set of independent tasks. A result is recorded only after it is in place, so a preparation can be killed
at any moment and run again, in one process or many, and always gives the same bytes.
"""

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data_prep.dataset.files import DataError, describe_os_error, write_json
from data_prep.dataset.index import (
    FORMAT,
    INDEX,
    SPLITS,
    VERSION,
    Index,
    ShardEntry,
    SplitEntry,
    fingerprint_of,
    information_sha256,
    read_index,
)
from data_prep.dataset.locations import is_store_url, local_path, store_url
from data_prep.dataset.summary import Summary
from data_prep.dataset.typed_json import load_json
from data_prep.options import STEPS, PrepConfig
from data_prep.passes.assemble import assemble_shard
from data_prep.passes.encode import FaultWatch, encode_unit, read_record
from data_prep.passes.merge import merge, read_merge_record
from data_prep.plan import Identity, PrepPlan, changed_units, differences, load_identity, make_plan
from data_prep.progress import Progress
from data_prep.publish import DatasetInStore
from data_prep.text.corpus import find_sources, refuse_nested
from data_prep.workers import num_workers, run_tasks
from data_prep.workspace import WORK_REMEDY, Workspace

_OF_LATER_PASSES = ("heldout", "chunk_tokens")  # options that do not change the encoded units; nor does on_error


def prepare(
    inputs: Sequence[str],
    output: str | Path,
    *,
    heldout: int | float = 0.0,
    heldout_inputs: Sequence[str] = (),
    show_progress: bool = True,
    **options: Any,
) -> Summary:
    """Write a finished dataset into `output`, as `make_dataset` does.

    heldout: a share below 1 or a number of the sentences, none by default. options: as in `PrepConfig`. Workers are
    spawned, so a script needs `if __name__ == "__main__"`.
    """
    named: dict[str, Any] = {"input": inputs, "heldout_input": heldout_inputs}
    return make_dataset(PrepConfig(output=str(output), heldout=heldout, **named, **options), show_progress)


def make_dataset(config: PrepConfig, show_progress: bool = True) -> Summary:
    """Write a finished dataset. Results that an earlier, killed call recorded are used, not made again.

    With config.step, only one pass is done, or a task's share of one; the summary names what is pending.
    Raises DataError for bad input, for options that differ from those of the work in the folder, and for a full disk.
    """
    try:
        if is_store_url(config.output):
            return _make_in_store(config, show_progress)
        if config.local_dir is not None:
            raise DataError(f"local_dir={config.local_dir} is for output=URL; give the folder as output= instead")
        return _make(config, local_path(config.output, "output"), show_progress)
    except OSError as error:
        raise DataError(describe_os_error(error)) from error


def _make_in_store(config: PrepConfig, show_progress: bool) -> Summary:
    """Write a finished dataset into a folder of this machine, and upload it."""
    begun, store = time.monotonic(), DatasetInStore(store_url(config.output, "output"))
    if config.step is not None:
        raise DataError(
            f"step={config.step} writes into a folder that its tasks share, not to {store.url}; give output=FOLDER, "
            f"then output={store.url} local_dir=FOLDER without step="
        )
    folder = local_path(config.local_dir, "local_dir") if config.local_dir else store.default_folder
    plan = make_plan(find_sources(config.input, config.heldout_input, str(folder)), config)
    names = store.names()
    is_finished = INDEX in names and not config.overwrite
    if is_finished:
        _refuse_stdin(store.url, plan)
        index = store.read_index()
        skipped = Summary.from_index(store.url, index).skipped_lines
        _refuse_other(store.url, store.read_identity(), plan, "a finished dataset", () if skipped else ("on_error",))
    else:
        if names and not config.overwrite:
            _refuse_other(store.url, store.read_identity(), plan, "an unfinished upload", ("on_error",))
        if INDEX not in names:
            store.write_identity(plan.identity())
        _make(config, folder, show_progress)
        index = store.upload(folder, plan.identity(), show_progress)
    if config.local_dir is None:
        shutil.rmtree(folder, ignore_errors=True)
    return Summary.from_index(store.url, index, time.monotonic() - begun, already_done=is_finished)


def _make(config: PrepConfig, folder: Path, show_progress: bool) -> Summary:
    begun = time.monotonic()
    work = Workspace(folder)
    alone = config.step is None
    refuse_nested([*config.input, *config.heldout_input], folder)
    with work.locked(shared=not alone):
        plan = make_plan(find_sources(config.input, config.heldout_input, str(work.output)), config)
        if _is_finished(work, plan):
            return Summary.from_index(config.output, read_index(work.output), already_done=True)
        _begin(work, plan)
        try:
            for step in STEPS if config.step is None else (config.step,):
                _PASSES[step](work, plan, show_progress)
        finally:
            if alone:
                work.clear_temporaries()
        return _finish(work, plan, begun)


def _is_finished(work: Workspace, plan: PrepPlan) -> bool:
    """Return whether the dataset exists already, from this input and these options; raise DataError if from others."""
    work.refuse_foreign_files()
    if plan.options.overwrite or not work.index.exists():
        return False
    _refuse_stdin(work.output, plan)
    before = load_identity(work.identity) if work.identity.exists() else None
    skipped = Summary.from_index(str(work.output), read_index(work.output)).skipped_lines
    _refuse_other(work.output, before, plan, "a finished dataset", except_for=() if skipped else ("on_error",))
    work.clear_work()
    return True


def _refuse_stdin(where: object, plan: PrepPlan) -> None:
    if plan.has_stdin:
        raise DataError(
            f"{where} holds a dataset, and whether standard input is what it was made of cannot be known; use "
            "overwrite=true or another output folder"
        )


def _refuse_other(
    where: object,
    before: Identity | None,
    plan: PrepPlan,
    what: str,
    except_for: Sequence[str],
    may_change: bool = False,
) -> None:
    if before is None:
        raise DataError(f"{where} holds {what} of unknown options; use overwrite=true or another output folder")
    if found := differences(before, plan.identity(), except_for, may_change):
        raise DataError(
            f"{where} holds {what} made otherwise ({'; '.join(found[:5])}); repeat those, or use "
            "overwrite=true or another output folder"
        )


def _begin(work: Workspace, plan: PrepPlan) -> None:
    """Write the plan into the work folder. Earlier work that belongs to the plan is kept."""
    alone = plan.options.step is None
    if plan.options.overwrite:
        work.clear_dataset()
    work.folder.mkdir(parents=True, exist_ok=True)
    if alone:
        work.clear_temporaries()
    if work.plan.exists():
        before, is_merged = PrepPlan.load(work.plan), work.merge_record.exists()
        may_change = alone and not is_merged
        may_differ = ("on_error",) if is_merged else ("on_error", *_OF_LATER_PASSES)
        what = "an unfinished preparation"
        _refuse_other(work.output, before.identity(), plan, what, may_differ, may_change)
        if may_change:
            work.remove_units([unit.number for unit in changed_units(before, plan)])
    if alone and plan.has_stdin:
        work.clear_work()
        work.folder.mkdir()
    plan.save(work.plan)  # with today's paths: the input may have moved


def _encode(work: Workspace, plan: PrepPlan, show: bool) -> None:
    mine = plan.share(plan.units)
    todo = [unit for unit in mine if not work.unit_record(unit.number).exists()]
    done = [unit for unit in mine if unit not in todo]
    before = (sum(map(plan.num_bytes, done)), sum(read_record(work, unit.number).words for unit in done))
    total = 0 if plan.has_stdin else sum(map(plan.num_bytes, mine))
    faults = FaultWatch(work, plan)
    faults.check(done)
    progress = Progress("1/3 reading", total, show)
    workers = 1 if plan.has_stdin else num_workers(plan.options.workers)  # only this process can read standard input
    todo.sort(key=plan.num_bytes, reverse=True)  # if a large compressed file came last, all other workers would idle
    arguments = [(work.output, unit.number) for unit in todo]
    run_tasks(encode_unit, arguments, workers, progress, before, lambda _, number: faults.unit_ended(number))
    faults.pass_ended()


def _merge(work: Workspace, plan: PrepPlan, show: bool) -> None:
    if missing := [unit.number for unit in plan.units if not work.unit_record(unit.number).exists()]:
        raise DataError(
            f"{len(missing)} of {len(plan.units)} units are not encoded (the first: {missing[0]}); run "
            "step=encode for all tasks first"
        )
    FaultWatch(work, plan).check(plan.units)
    num_spills = sum(len(read_record(work, unit.number).spill_tokens) for unit in plan.units)
    if plan.options.task == 0:
        run_tasks(merge, [(work.output,)], 1, Progress("2/3 lexicon", num_spills, show))


def _shard(work: Workspace, plan: PrepPlan, show: bool) -> None:
    if not work.merge_record.exists():
        raise DataError("the lexicons are not merged; run step=merge first")
    record = read_merge_record(work)
    mine = plan.share(_shards(record.shards))
    todo = [shard for shard in mine if not work.shard_record(*shard).exists()]
    num_words = sum(record.figures.words.values()) + sum(record.figures.sentences.values())
    share = num_words * len(mine) // max(1, len(_shards(record.shards)))
    before = share * (len(mine) - len(todo)) // max(1, len(mine))
    run_tasks(
        assemble_shard,
        [(work.output, *shard) for shard in todo],
        num_workers(plan.options.workers),
        Progress("3/3 shards", share, show),
        (before, before),
    )


_PASSES = {"encode": _encode, "merge": _merge, "shard": _shard}


def _shards(counts: dict[str, int]) -> list[tuple[str, int]]:
    return [(split, number) for split in SPLITS for number in range(counts.get(split, 0))]


def _finish(work: Workspace, plan: PrepPlan, begun: float) -> Summary:
    """Write the index if all shards exist; return the summary, which names what is pending otherwise."""
    location = str(work.output)
    if work.index.exists():  # another task of the array has just finished the dataset
        return Summary.from_index(location, read_index(work.output), time.monotonic() - begun)
    encoded = sum(work.unit_record(unit.number).exists() for unit in plan.units)
    if not work.merge_record.exists():
        after = "step=merge" if encoded == len(plan.units) else "step=encode for those left"
        return Summary(location=location, pending=f"{encoded} of {len(plan.units)} units are encoded; next: {after}")
    record = read_merge_record(work)
    shards = _shards(record.shards)
    written = [work.shard_record(*shard).exists() for shard in shards]
    if not all(written):
        return Summary(
            location=location,
            pending=f"{sum(written)} of {len(shards)} shards are written; next: step=shard for those left",
        )
    work.clear_torn_shards()
    index = _index(work, plan)
    write_json(work.identity, plan.identity())
    write_json(work.index, index)
    work.clear_work()
    return Summary.from_index(location, index, time.monotonic() - begun)


def _index(work: Workspace, plan: PrepPlan) -> Index:
    record = read_merge_record(work)
    splits: dict[str, SplitEntry] = {}
    for split in SPLITS:
        shards: list[ShardEntry] = [
            load_json(work.shard_record(split, number), ShardEntry, WORK_REMEDY)
            for number in range(record.shards.get(split, 0))
        ]
        if shards:
            splits[split] = {
                "tokens": sum(shard["tokens"] for shard in shards),
                "sentences": sum(shard["sentences"] for shard in shards),
                "shards": shards,
            }
    summary = json.loads(json.dumps(asdict(record.figures)))  # keys as they are read back
    made = {
        "options": plan.options.identity(),
        "inputs": [{"name": source.label, "bytes": source.num_bytes, "split": source.split} for source in plan.sources],
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": fingerprint_of(record.lexicon, splits),
        "made": made,
        "summary": summary,
        "information_sha256": information_sha256(made, summary),
        "lexicon": record.lexicon,
        "splits": splits,
    }
