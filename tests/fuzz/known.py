"""Damage that was once accepted: tested first in every round, by name instead of by a random number."""

import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.cage import Fault, Refused, elmo, note
from tests.fuzz.data_areas import evaluate, forged, info, preflight, read, read_remote, train, verify
from tests.fuzz.model_areas import (
    FORGED_HDF5,
    embed,
    export,
    finish_embedding,
    forged_model,
    forged_weights,
    load,
)
from tests.fuzz.mutators import FORGED, set_in_json
from tests.fuzz.run_areas import evaluate_checkpoint, evaluate_run, foreign, plot, resume, status
from tests.fuzz.world import Use, World

DEEP: Any = 0
for _ in range(400):
    DEEP = [DEEP]
SHARD, RECORD, PARTS = "splits/train/shards/0", "checkpoints/step-00000006.json", "out.npz.parts/plan.json"
CHECKPOINT = "checkpoints/step-00000006.ckpt"
IN_JSON: list[tuple[str, str, str, Any, list[Use]]] = [  # folder of the world, file, place, value, uses of the file
    *[("dataset", "index.json", f"{SHARD}/file", name, [read, read_remote, preflight, verify])
      for name in ("../victim", "../../victim", "?x=-o/path", "/etc/passwd", "a\0b", ".", "", 5)],
    *[("dataset", "index.json", place, value, [info, verify, read, read_remote])
      for place, value in [("", None), ("", []), ("splits", None), ("splits/train", []), (SHARD, {}), ("lexicon", 1),
                           (f"{SHARD}/chunks", [[1, 2]]), (f"{SHARD}/chunks/0/0", -4), (f"{SHARD}/chunks/0/1", 10**12),
                           (f"{SHARD}/chunks/0", "abc"), (f"{SHARD}/bytes", 10**30), (f"{SHARD}/tokens", "1"),
                           ("splits/train/tokens", 10**40), ("version", None), ("fingerprint", "../../victim"),
                           ("fingerprint", DEEP), ("lexicon/files/lexicon.utf8.npy", None)]],
    *[("dataset", "index.json", place, value, [info])
      for place, value in [("made/options/seed", 7), ("summary/cut_words_share", 0.5), ("information_sha256", None)]],
    *[("run", RECORD, place, value, [resume, status, evaluate_run])
      for place, value in [("file", "../../victim"), ("file", "run.json"), ("bytes", None), ("step", 1e308),
                           ("step", "6"), ("unix_time", {}), ("val_perplexity", "low"), ("", []), ("", DEEP)]],
    *[("run", "run.json", place, value, [resume, status])
      for place, value in [("identity", None), ("", 1), ("version", {})]],
    *[("run", "start.json", place, value, [status])
      for place, value in [("unix_time", "now"), ("slurm", 3), ("total_steps", {}), ("host", []), ("data", None)]],
    ("run", "end.json", "how", ["finished"], [status]),
    ("run", "end.json", "", [1], [status, plot]),
    *[("model", "config.json", place, value, [load, embed, export])
      for place, value in [("training/run/name", "${oc.env:FUZZ_SECRET}"), ("facts/corpus", "${oc.env:FUZZ_SECRET}"),
                           ("model/activation", "${oc.env:FUZZ_SECRET}"), ("model", None), ("facts", None),
                           ("files", None), ("files", {}), ("training/a_key_of_a_later_version", 1),
                           ("training/run/a_key_of_a_later_version", 1), ("model/cell_clip", 2.0),
                           ("model/lstm_dim", 10**9), ("model/filters", [[1, 10**9]]),
                           ("model/max_characters", 10**9), ("vocabulary_size", 1)]],
    *[("vectors", PARTS, place, value, [finish_embedding])
      for place, value in [("parts/0/2", 10**9), ("width", 1), ("files", [["../victim", 0]]), ("identity", 1),
                           ("", 0)]],
]  # fmt: skip
IN_BYTES: list[tuple[str, str, bytes, list[Use]]] = [
    ("run", "run.json", b"", [resume, status]),
    ("run", "run.json", b'{"identity": {"data', [resume]),
    ("run", RECORD, b"", [resume, status]),
    ("run", "metrics.jsonl", b'[1]\n{"trainer/global_step": [], "train/tokens": {}}\n\xff\n{}\n', [status, plot]),
    ("run", "restarts.jsonl", b"[" * 10_000, [status]),
    ("run", "checkpoints/step-00000006.ckpt", b"a text file\n", [evaluate_checkpoint, resume]),
    ("dataset", "index.json", b"[" * 10_000 + b"]" * 10_000, [info, verify, train, evaluate]),
    ("model", "vocabulary.txt", b"\xff\n" * 60, [load]),
    ("model", "config.json", b"[" * 10_000, [load, embed]),
    ("model", "counts.npy", b"\x93NUMPY\x01\x00", [load]),
]
CHANGED: list[tuple[str, str, Callable[[bytes], bytes], list[Use]]] = [
    ("dataset", "train-000000.tar", lambda data: _flipped(data, 600), [read, verify, train]),
    ("dataset", "lexicon.offsets.npy", lambda data: _flipped(data, -8), [read, verify, train]),
    ("dataset", "lexicon.counts.npy", lambda data: _flipped(data, 20), [read, verify]),
    ("run", CHECKPOINT, lambda data: _flipped(data, len(data) // 2), [evaluate_checkpoint, evaluate_run, resume]),
    ("model", "vocabulary.txt", lambda data: b"\xef\xbb\xbf" + data, [load]),
    ("model", "model.safetensors", lambda data: _flipped(data, -1), [load, embed]),
    ("vectors", "out.npz.parts/part-000000.npy", lambda data: _flipped(data, -1), [finish_embedding]),
    ("vectors", "out.npz.parts/part-000000.npy", lambda data: data + b"\0", [finish_embedding]),
]
FORGERIES: list[Callable[[World, Random, Path, int], None]] = [
    *(partial(forged, damage=number) for number in range(6)),
    *(partial(forged_model, kind=kind) for kind in FORGED),
    *(partial(forged_weights, kind=kind) for kind in FORGED_HDF5),
    foreign,
]
COMMANDS: list[tuple[str, ...]] = [  # each is refused; the arguments are completed with the world's paths
    ("embed", "checkpoint=MODEL", "input=HELDOUT", "output=out.npz", "layers=mix"),
    *(("evaluate", "checkpoint=MODEL", f"data={place}")
      for place in ("s3:/bucket", "http:/host", "pipe:touch ../victim #", "~nobody-here/x", "gs://")),
    ("evaluate", "checkpoint=HELDOUT", "data=DATASET"),
    ("prep", "input=HELDOUT", "output=data", "tasks=0"),
    ("prep", "input=\udcff", "output=data"),
    ("finetune", "from=HELDOUT", "data.path=DATASET", "run.dir=run"),
    ("embed", "checkpoint=RUN/checkpoints/none.ckpt", "input=HELDOUT", "output=out.npz"),
]  # fmt: skip
DAMAGES = [*IN_JSON, *IN_BYTES, *CHANGED]
NUMBER = len(DAMAGES) + len(FORGERIES) + len(COMMANDS)


def known(world: World, chance: Random, folder: Path, case: int) -> Counter[str]:
    """Check that every command ends with the right result or a refusal, for each known damage."""
    if case < len(DAMAGES):
        return _damaged(world, folder, case)
    case -= len(DAMAGES)
    try:
        if case < len(FORGERIES):
            FORGERIES[case](world, chance, folder, case)
        else:
            _refused(world, COMMANDS[case - len(FORGERIES)])
    except Refused:
        return Counter(refused=1)
    return Counter(success=1)


def _refused(world: World, command: tuple[str, ...]) -> None:
    paths = {"MODEL": world.model, "HELDOUT": world.heldout, "DATASET": world.dataset, "RUN": world.run}
    for name, path in paths.items():
        command = tuple(argument.replace(name, str(path)) for argument in command)
    note(f"{command!r}")
    elmo(*command)
    raise Fault("a command is not refused")


def _flipped(data: bytes, at: int) -> bytes:
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def _damaged(world: World, folder: Path, case: int) -> Counter[str]:
    name, file, *damage, uses = DAMAGES[case]
    sound = {"dataset": world.dataset, "run": world.run, "model": world.model, "vectors": world.vectors}[str(name)]
    counts: Counter[str] = Counter()
    for use in uses:  # type: ignore[union-attr]
        copy = folder / use.__name__ / sound.name  # type: ignore[union-attr]
        shutil.copytree(sound, copy)
        path = copy / str(file)
        if callable(damage[0]):
            path.write_bytes(damage[0](path.read_bytes()))
            note(f"{file} is changed", instead=True)
        elif len(damage) == 1:
            path.write_bytes(damage[0])  # type: ignore[arg-type]
            note(f"{file} is {damage[0]!r:.80}", instead=True)
        else:
            note(set_in_json(path, *damage), instead=True)  # type: ignore[arg-type]
        try:
            world.check(use, copy)  # type: ignore[arg-type]
            counts["success"] += 1
        except Refused:
            counts["refused"] += 1
    return counts
