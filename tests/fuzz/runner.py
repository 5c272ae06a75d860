"""All areas, the share of cases for each, and a run over them in several processes."""

import gc
import logging
import multiprocessing
import shutil
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from random import Random

import torch

from tests.fuzz import config_areas, data_areas, known, model_areas, run_areas, text_areas
from tests.fuzz.cage import Cage, Outcome, elmo, group_of
from tests.fuzz.world import TRAINING, World

Area = Callable[[World, Random, Path, int], Counter[str] | None]
AREAS: dict[str, tuple[Area, float, int]] = {  # the function, its share of the cases, and the cases for each child
    "arguments": (config_areas.arguments, 10, 25),
    "yaml": (config_areas.yaml_file, 8, 25),
    "text": (text_areas.text, 12, 25),
    "compressed": (text_areas.compressed, 10, 25),
    "index": (data_areas.index, 16, 25),
    "dataset files": (data_areas.dataset_files, 6, 25),
    "members": (data_areas.members, 4, 25),
    "forged data": (data_areas.forged, 2, 25),
    "unfinished": (data_areas.unfinished, 6, 25),
    "checkpoints": (run_areas.checkpoints, 6, 10),
    "foreign": (run_areas.foreign, 0.2, 10),
    "run": (run_areas.run_records, 6, 10),
    "model": (model_areas.model, 10, 25),
    "forged model": (model_areas.forged_model, 2, 25),
    "imported": (model_areas.imported, 8, 25),
    "forged hdf5": (model_areas.forged_weights, 2, 25),
    "vectors": (model_areas.vectors, 4, 25),
}
WHOLE: dict[str, tuple[Area, Callable[[World], int]]] = {  # the function, and the number of cases, all of which are run
    "known": (known.known, lambda world: known.NUMBER),
    "not yaml": (config_areas.not_yaml, lambda world: len(config_areas.FIRST)),
    "places": (config_areas.places, lambda world: len(config_areas.PLACES)),
    "documents": (config_areas.documents, lambda world: len(config_areas.DOCUMENTS)),
    "every truncation": (data_areas.every_truncation, lambda world: 1),
    "every byte": (data_areas.every_byte, lambda world: data_areas.num_flip_cases(world.dataset)),
}


@dataclass
class Report:
    """Counts of outcomes by area and kind, all failures, and the seconds that the run took."""

    seed: int
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, area: str, found: Outcome | Counter[str]) -> None:
        if isinstance(found, Outcome):
            self.counts[area][found.kind] += 1
            self.failures += [found] if found.kind == "failure" else []
        else:
            self.counts[area].update(found)

    def __str__(self) -> str:
        kinds = ("success", "refused", "failure")
        lines = [f"{'area':18}{'cases':>8}" + "".join(f"{kind:>9}" for kind in kinds)]
        for area, counts in [*self.counts.items(), ("all", sum(self.counts.values(), Counter()))]:
            lines.append(f"{area:18}{sum(counts.values()):8,}" + "".join(f"{counts[kind]:9,}" for kind in kinds))
        groups = defaultdict(list)
        for failure in self.failures:
            groups[group_of(failure)].append(failure)
        for _, alike in sorted(groups.items(), key=lambda item: -len(item[1])):
            one = alike[0]
            again = f"python -m tests.fuzz area={one.area.replace(' ', '_')} case={one.case} seed={self.seed}"
            lines += [f"\n{len(alike)} x {one.area}: {one.message}", f"    {one.damage[:300]}", f"    {again}"]
        return "\n".join([*lines, f"\n{self.seconds:,.0f} s"])


def fuzz(root: Path, cases: int, seed: int, only: list[str], minutes: float = 1000.0, jobs: int = 2) -> Report:
    """Run `cases` cases over the areas (or those of `only`), and all cases of the areas in WHOLE."""
    world = make_world(root)
    wanted = {name: area for name, area in AREAS.items() if name in only or not only}
    total = sum(share for _, share, _ in wanted.values())
    batches = [
        (name, list(range(start, min(start + each, number))))
        for name, (_, share, each) in wanted.items()
        for number in [round(cases * share / total)]
        for start in range(0, number, each)
    ]
    for name, (_, number_of) in WHOLE.items():
        if name in only or not only:
            number = number_of(world)
            batches += [(name, list(range(start, min(start + 10, number)))) for start in range(0, number, 10)]
    Random(seed).shuffle(batches)
    return _run(world, root, batches, seed, time.monotonic() + 60 * minutes, jobs)


def _run(world: World, root: Path, batches: list[tuple[str, list[int]]], seed: int, end: float, jobs: int) -> Report:
    report, begun = Report(seed), time.monotonic()
    gc.freeze()
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    workers = [
        context.Process(target=_work, args=(world, root / f"job-{job}", batches[job::jobs], seed, end, queue))
        for job in range(jobs)
    ]
    for worker in workers:
        worker.start()
    running, shown = jobs, begun
    while running:
        message = queue.get()
        if message is None:
            running -= 1
        else:
            area, found = message
            report.add(area, Outcome(**found) if "message" in found else Counter(found))
            if sys.stderr.isatty() or time.monotonic() - shown > 30:
                shown = time.monotonic()
                _show(report, "\r" if sys.stderr.isatty() else "\n")
    for worker in workers:
        worker.join()
    report.seconds = time.monotonic() - begun
    return report


def _work(
    world: World, root: Path, batches: list[tuple[str, list[int]]], seed: int, end: float,
    queue: "multiprocessing.SimpleQueue[tuple[str, dict[str, object]] | None]",
) -> None:  # fmt: skip
    cage = Cage(root, [world.folder])
    for area, cases in batches:
        if time.monotonic() < end:
            for found in cage.run(area, trial(world, area), cases, seed):
                queue.put((area, asdict(found) if isinstance(found, Outcome) else dict(found)))
    queue.put(None)


def trial(world: World, area: str) -> Callable[[Random, Path, int], Counter[str] | None]:
    return partial((AREAS | WHOLE)[area][0], world)


def _show(report: Report, end: str) -> None:
    done = sum(sum(counts.values()) for counts in report.counts.values())
    print(f"{done:,} cases, {len(report.failures):,} failures", end=end, file=sys.stderr, flush=True)


def again(root: Path, area: str, case: int, seed: int) -> int:
    """Run one case again; its files stay in `root`."""
    area = area.replace("_", " ")
    world = make_world(root)
    cage = Cage(root / "again", [world.folder], keep=True)
    found = list(cage.run(area, trial(world, area), [case], seed))
    print("\n".join(map(str, found)), f"\nfiles: {cage.root}")
    return int(any(isinstance(one, Outcome) and one.kind == "failure" for one in found))


def make_world(root: Path) -> World:
    """Build the world in a child, so that this process has no other threads, and load the expected results."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    world = World(root / "world")
    cage = Cage(root / "build", [], keep=True)
    built = next(cage.run("build", partial(_build, world), [0], 0))
    if not isinstance(built, Outcome) or built.kind != "success":
        raise RuntimeError(f"the sound things cannot be made: {built}")
    shutil.rmtree(cage.root)
    world.load()
    return world


def _build(world: World, chance: Random, folder: Path, case: int) -> None:
    world.build()
    other = [
        *TRAINING,
        f"data.path={world.dataset}",
        f"run.dir={world.folder / 'other'}",
        "train.max_steps=6",
        "run.seed=2",
    ]
    elmo("pretrain", *other)
    for use in data_areas.DATASET_USES:
        world.expect(use, world.dataset)
    for use in (data_areas._verify_here,):
        world.expected["verify_here"] = [use(world, world.dataset)]
    world.expect(data_areas.finish_preparation, world.begun)
    for use in model_areas.MODEL_USES:
        world.expect(use, world.model)
    world.expect(model_areas.finish_embedding, world.vectors)
    world.expect(model_areas.search, world.corpus)
    for use in {*run_areas.CHECKPOINT_USES, *run_areas.RUN_USES}:
        some = use in (run_areas.evaluate_run, run_areas.export_run)
        world.expect(use, world.run, without="checkpoints/*.json" if some else "")
    world.save()
