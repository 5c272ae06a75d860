"""Damaged datasets: index, shards and lexicon, and the records of a preparation that has not ended."""

import hashlib
import io
import json
import shutil
import tarfile
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from data_prep.dataset.index import fingerprint_of
from data_prep.dataset.lexicon import EOS_ID
from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import write_shard
from data_prep.dataset.verify import verify as verify_dataset
from tests.fuzz.cage import Fault, Refused, call, elmo, note
from tests.fuzz.mutators import damage_file
from tests.fuzz.world import TRAINING, Use, World, damaged_copy, digest, read_result
from tests.train import runs

FLIPS_A_CASE = 100


def info(world: World, dataset: Path) -> str:
    return elmo("prep", "info", str(dataset), refused_by="only informs and is left out").replace(
        str(dataset), "DATASET"
    )


def verify(world: World, dataset: Path) -> str:
    return elmo("prep", "verify", str(dataset), ends_with_1=True).replace(str(dataset), "DATASET")


def read(world: World, dataset: Path) -> str:
    return _content(open_dataset(dataset))


def read_remote(world: World, dataset: Path) -> str:
    return _content(open_dataset(f"file://{dataset}", dataset.parent / "cache"))


def _content(dataset: Any) -> str:
    """Return a hash of everything that training and evaluation read of a dataset."""
    content = hashlib.sha256("\n".join(dataset.lexicon.words()).encode())
    content.update(digest(dataset.lexicon.counts, dataset.lexicon.byte_lengths()).encode())
    for name, split in sorted(dataset.splits.items()):
        chunks = [split.chunk(number) for number in range(split.num_chunks)]
        content.update(f"{name} {split.num_tokens} {split.num_sentences} {digest(*chunks)}".encode())
    return content.hexdigest()


def evaluate(world: World, dataset: Path) -> Any:
    output = dataset.parent / "result.json"
    elmo("evaluate", f"checkpoint={world.model}", f"data={dataset}", f"output={output}", "accelerator=cpu")
    return read_result(output)


def train(world: World, dataset: Path, workers: int = 0) -> Any:
    run = dataset.parent / "new-run"
    elmo(
        "pretrain", *TRAINING, f"data.path={dataset}", f"run.dir={run}", "train.max_steps=2", f"data.workers={workers}"
    )
    weights = runs.newest(run)["state_dict"]
    shutil.rmtree(run)
    return digest(*(weights[name].numpy() for name in sorted(weights)))


def train_with_loader_processes(world: World, dataset: Path) -> Any:
    return train(world, dataset, workers=1)


def preflight(world: World, dataset: Path) -> str:
    run = dataset.parent / "preflight-run"
    stage = [f"data.stage_dir={dataset.parent / 'stage'}"]
    return elmo("preflight", *TRAINING, f"data.path={dataset}", f"run.dir={run}", *stage, ends_with_1=True)


def finish_preparation(world: World, work: Path) -> str:
    elmo(
        "prep",
        f"input={world.text}",
        f"heldout_input={world.heldout}",
        "workers=1",
        f"output={work}",
        "shard_tokens=250",
    )
    return _content(open_dataset(work))


DATASET_USES: list[Use] = [info, verify, read, read_remote, evaluate, preflight, train, train_with_loader_processes]
OFTEN = [6, 6, 6, 3, 2, 2, 1, 0.3]


def index(world: World, chance: Random, folder: Path, case: int) -> None:
    """Damage index.json. Parts that only inform may be left out of `prep info`, with a warning."""
    copy = folder / "dataset"
    shutil.copytree(world.dataset, copy)
    note(damage_file(copy / "index.json", chance))
    world.check(chance.choices(DATASET_USES, OFTEN)[0], copy)


def dataset_files(world: World, chance: Random, folder: Path, case: int) -> None:
    """Damage or remove a shard or a file of the lexicon, or replace it by another."""
    copy = damaged_copy(world.dataset, folder, ["*.tar", "lexicon.*"], chance)
    world.check(chance.choices(DATASET_USES[1:], OFTEN[1:])[0], copy)


def members(world: World, chance: Random, folder: Path, case: int) -> None:
    """Rename, swap, repeat or leave out members of a shard, or change their types."""
    copy = folder / "dataset"
    shutil.copytree(world.dataset, copy)
    path = chance.choice(sorted(copy.glob("*.tar")))
    with tarfile.open(path) as tar:
        found = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    first, second = chance.randrange(len(found)), chance.randrange(len(found))
    action = chance.choice(["rename", "swap", "repeat", "leave out", "reverse", "hostile name", "link"])
    note(f"{action} {first} {second} of {path.name}")
    if action in ("rename", "hostile name"):
        found[first][0].name = (
            "other.npy" if action == "rename" else chance.choice(["../../victim", "/tmp/victim", "a\nb"])
        )
    elif action == "swap":
        found[first], found[second] = (found[first][0], found[second][1]), (found[second][0], found[first][1])
    elif action == "repeat":
        found.insert(first, found[second])
    elif action == "leave out":
        del found[first]
    elif action == "reverse":
        found.reverse()
    else:
        found[first][0].type, found[first][0].linkname = tarfile.SYMTYPE, "../victim"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for member, data in found:
            member.size = 0 if member.issym() else len(data)
            tar.addfile(member, io.BytesIO(data))
    world.check(chance.choices(DATASET_USES[1:], OFTEN[1:])[0], copy)


def forged(world: World, chance: Random, folder: Path, case: int, damage: int | None = None) -> None:
    """Make a dataset with valid checksums whose ids are not words, or whose sentences do not end."""
    copy = folder / "dataset"
    shutil.copytree(world.dataset, copy)
    index = json.loads((copy / "index.json").read_text())
    split, types = chance.choice(sorted(index["splits"])), index["lexicon"]["types"]
    bad = [[3, 4, types, EOS_ID], [3, 2**31 - 1, EOS_ID], [3, -1, EOS_ID], [3, 0, EOS_ID], [3, 4], []]
    tokens = chance.choice(bad) if damage is None else bad[damage]
    note(f"{split}: {tokens[:9]}")
    entry = write_shard(copy, split, 0, [(np.array(tokens * 60, np.int32), max(1, tokens.count(EOS_ID) * 60))])
    index["splits"][split] |= {"shards": [entry], "tokens": entry["tokens"], "sentences": entry["sentences"]}
    index["fingerprint"] = fingerprint_of(index["lexicon"], index["splits"])
    (copy / "index.json").write_text(json.dumps(index))
    use = chance.choice([verify, evaluate if split == "heldout" else train])
    note(use.__name__)
    use(world, copy)
    if tokens[-1:] != [EOS_ID] or not 0 < min(tokens) <= max(tokens) < types or use is verify:
        raise Fault(f"wrong result in silence: {use.__name__} takes ids that are none")


def every_byte(world: World, chance: Random, folder: Path, case: int) -> Counter[str]:
    """Change each byte of each file of the dataset once.

    Readers must read the original content or refuse the file. verify must find every change.
    """
    copy = folder / "dataset"
    shutil.copytree(world.dataset, copy)
    counts: Counter[str] = Counter()
    for path, at in _flip_places(copy)[case * FLIPS_A_CASE : (case + 1) * FLIPS_A_CASE]:
        data = bytearray(path.read_bytes())
        data[at] ^= chance.randrange(1, 256)
        counts[_both_notice(world, copy, path, at, bytes(data))] += 1
    return counts


def every_truncation(world: World, chance: Random, folder: Path, case: int) -> Counter[str]:
    """Cut each file of the dataset at each multiple of 512 bytes, and one byte before."""
    copy = folder / "dataset"
    shutil.copytree(world.dataset, copy)
    counts: Counter[str] = Counter()
    for path in sorted(copy.iterdir()):
        data = path.read_bytes()
        for end in (at - cut for at in range(512, len(data) + 512, 512) for cut in (0, 1)):
            if end < len(data):
                counts[_both_notice(world, copy, path, end, data[:end])] += 1
    return counts


def num_flip_cases(dataset: Path) -> int:
    return len(_flip_places(dataset)) // FLIPS_A_CASE + 1


def _flip_places(dataset: Path) -> list[tuple[Path, int]]:
    files = [path for path in sorted(dataset.iterdir()) if path.is_file() and not path.name.startswith(".")]
    return [(path, at) for path in files for at in range(path.stat().st_size)]


def _both_notice(world: World, copy: Path, path: Path, at: int, damaged: bytes) -> str:
    before = path.read_bytes()
    path.write_bytes(damaged)
    note(f"{path.name} at {at}", instead=True)
    kinds = []
    for use in (_verify_here, read):
        try:
            if call(use, world, copy) not in world.expected[use.__name__.strip("_")]:
                raise Fault(f"wrong result in silence: {use.__name__} after a change of {path.suffix} data")
            kinds.append("success")
        except Refused:
            kinds.append("refused")
    path.write_bytes(before)
    if kinds[0] == "success" and damaged != before and path.name != "index.json":
        raise Fault(f"verify passes over a change of {path.suffix} data")
    return kinds[1]


def _verify_here(world: World, dataset: Path) -> str:
    report = verify_dataset(dataset)
    if report.faults:
        raise Refused(report.faults[0])
    return f"{report}\n".replace(str(dataset), "DATASET")


def unfinished(world: World, chance: Random, folder: Path, case: int) -> None:
    """Damage the records of a preparation that was stopped after its first or second pass."""
    sound = chance.choice([world.begun, world.folder / "encoded"])
    copy = damaged_copy(sound, folder, [".work/*.json", ".work/*.json", "*", ".work/*/*"], chance)
    world.check(finish_preparation, copy)
