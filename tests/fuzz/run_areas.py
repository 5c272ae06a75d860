"""Damaged folders of runs: checkpoints and all other records of a run."""

import shutil
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.cage import Fault, elmo, note
from tests.fuzz.model_areas import weights_of
from tests.fuzz.world import LAST_STEP, TRAINING, Use, World, damaged_copy, digest, read_result
from tests.train import runs


def evaluate_run(world: World, run: Path) -> Any:
    output = run.parent / "result.json"
    elmo("evaluate", f"checkpoint={run}", f"data={world.dataset}", f"output={output}", "accelerator=cpu")
    return read_result(output)


def evaluate_checkpoint(world: World, run: Path) -> Any:
    """Evaluate the newest checkpoint, given as a file."""
    output = run.parent / "result.json"
    path = run / "checkpoints" / "step-00000006.ckpt"
    elmo("evaluate", f"checkpoint={path}", f"data={world.dataset}", f"output={output}", "accelerator=cpu")
    return read_result(output)


def export_run(world: World, run: Path) -> str:
    output = run.parent / "exported"
    elmo("export", f"checkpoint={run}", f"output={output}")
    return weights_of(output)


def resume(world: World, run: Path) -> str:
    """Train on. The result must be bitwise the same from whichever checkpoint the run resumes."""
    settings = [f"data.path={world.dataset}", f"run.dir={run}", f"train.max_steps={LAST_STEP}"]
    elmo("pretrain", *TRAINING, *settings)
    content = runs.newest(run)
    if content["global_step"] != LAST_STEP:
        raise Fault(f"wrong result in silence: the newest checkpoint is of step {content['global_step']}")
    weights = content["state_dict"]
    return digest(*(weights[name].numpy() for name in sorted(weights)))


def status(world: World, run: Path) -> None:
    elmo("status", str(run))
    elmo("status", str(run), "--json")


def compare(world: World, run: Path) -> None:
    elmo("compare", str(run), str(world.run))
    elmo("compare", str(run), str(world.run), "json=true")


def plot(world: World, run: Path) -> None:
    elmo("plot", str(run), f"output={run.parent / 'plot.html'}")


CHECKPOINT_USES: list[Use] = [evaluate_run, evaluate_checkpoint, export_run, resume, status]
RUN_USES: list[Use] = [status, compare, plot, export_run, resume]


def checkpoints(world: World, chance: Random, folder: Path, case: int) -> None:
    """Damage, lose or exchange a checkpoint or its record."""
    copy = damaged_copy(world.run, folder, ["checkpoints/*.ckpt", "checkpoints/*.json"], chance)
    world.check(chance.choices(CHECKPOINT_USES, [2, 3, 1, 2, 3])[0], copy)


def run_records(world: World, chance: Random, folder: Path, case: int) -> None:
    """Damage run.json, start.json, end.json, metrics.jsonl, restarts.jsonl, writer.json or config.yaml."""
    copy = damaged_copy(world.run, folder, ["*.json", "*.jsonl", "config.yaml"], chance)
    world.check(chance.choices(RUN_USES, [4, 2, 2, 1, 1])[0], copy)


def foreign(world: World, chance: Random, folder: Path, case: int) -> None:
    """Put checkpoints and records of another run (another seed) into the folder."""
    copy = folder / "run"
    shutil.copytree(world.run, copy)
    for path in chance.sample(sorted((world.folder / "other").glob("checkpoints/step-*6.*")), chance.choice([1, 2])):
        note(f"{path.name} of another run")
        shutil.copy2(path, copy / "checkpoints" / path.name)
    world.check(resume, copy)
