"""Undamaged things to damage, made once: text, a dataset, a run, models, and unfinished work."""

import hashlib
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tests import corpora
from tests.fuzz.cage import Fault, Refused, call, elmo, note
from tests.fuzz.mutators import damage_folder
from tests.tasks import training

LAST_STEP = 8  # of a resumed run; the world's own run ends at step 6
TRAINING = [
    "model.filters=[[1,4],[2,4]]", "model.character_dim=4", "model.num_highway=1", "model.lstm_dim=6",
    "model.projection_dim=4", "data.lanes=4", "data.window=8", "data.vocab_min_count=1", "data.vocab_size=60",
    "data.workers=0", "softmax.num_samples=16", "evaluate.lanes=4", "train.threads=1", "train.accelerator=cpu",
    "train.log_every_steps=1", "train.validate_every_steps=3", "checkpoint.every_steps=2", "checkpoint.keep_last=3",
    "train.epochs=9", "wandb.mode=disabled",
]  # fmt: skip
Use = Callable[["World", Path], Any]
"""use(world, a copy of one of the world's folders): work with the copy; return what must be the same every time."""


class World:
    """Paths of undamaged things. expected: the right results of each Use, of which there may be several."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text, self.heldout, self.dataset = folder / "text.txt", folder / "heldout.txt", folder / "data" / "dataset"
        self.run, self.model, self.weights = folder / "run", folder / "model", folder / "weights"
        self.vectors, self.begun, self.corpus = folder / "vectors", folder / "begun", folder / "corpus"
        self.columns, self.tagger = folder / "names.conll", folder / "tagger" / "model"
        self.expected: dict[str, list[Any]] = {}

    def build(self) -> None:
        """Make everything; `load` reads the results that a `build` in another process saved."""
        self.folder.mkdir(exist_ok=True)
        corpora.write_text(self.text, corpora.zipf_sentences(40, seed=1, types=90))
        corpora.write_text(self.heldout, corpora.zipf_sentences(12, seed=2, types=90))
        self.dataset.parent.mkdir()
        prep = [f"input={self.text}", f"heldout_input={self.heldout}", "workers=1"]
        elmo("prep", *prep, f"output={self.dataset}", "shard_tokens=250")
        elmo("prep", *prep, f"output={self.begun}", "shard_tokens=250", "step=encode")
        shutil.copytree(self.begun, self.folder / "encoded")
        elmo("prep", *prep, f"output={self.begun}", "shard_tokens=250", "step=merge")
        elmo("pretrain", *TRAINING, f"data.path={self.dataset}", f"run.dir={self.run}", "train.max_steps=6")
        (self.run / "restarts.jsonl").write_text('{"job": "1", "reason": "node n1 lost", "unix_time": 1.0}\n')
        elmo("export", f"checkpoint={self.run}", f"output={self.model}")
        elmo("export", f"checkpoint={self.run}", f"output={self.weights}", "format=allennlp")
        self.vectors.mkdir()
        for task in (0, 1):
            elmo("embed", *self.embedding(self.vectors), "tasks=2", f"task={task}")
        self.corpus.mkdir()
        self.neighbors(self.corpus)
        training.write_columns(self.columns, 6, seed=1)
        elmo("task", "ner", *self.tagging(), f"run.dir={self.tagger.parent}")

    def tagging(self) -> list[str]:
        return [f"train={self.columns}", f"dev={self.columns}", *training.SMALL, "training.max_epochs=1",
                f"elmo.checkpoint={self.model}", f"elmo.cache_dir={self.folder / 'layers'}"]  # fmt: skip

    def embedding(self, folder: Path) -> list[str]:
        return [f"checkpoint={self.model}", f"input={self.heldout}", f"output={folder / 'out.npz'}"]

    def neighbors(self, index: Path) -> str:
        return elmo("neighbors", f"checkpoint={self.model}", f"corpus={self.heldout}", f"index={index}", "word=w1",
                    "sentence=w1 w2", "k=3")  # fmt: skip

    def expect(self, use: Use, sound: Path, without: str = "") -> None:
        """Work out the right results of `use`: with all files, and with any of the files `without` missing."""
        lost = sorted(sound.glob(without)) if without else []
        values = []
        for number in range(len(lost) + 1 if without else 1):
            for some in combinations(lost, number):
                with _copied(sound, self.folder / "expected" / sound.name) as copy:
                    for path in some:
                        (copy / path.relative_to(sound)).unlink()
                    try:
                        values.append(use(self, copy))
                    except Refused:
                        assert number, f"{use.__name__} refuses what is sound"
        self.expected[use.__name__] = values

    def save(self) -> None:
        (self.folder / "expected.pickle").write_bytes(pickle.dumps(self.expected))

    def load(self) -> None:
        self.expected = pickle.loads((self.folder / "expected.pickle").read_bytes())

    def check(self, use: Use, copy: Path) -> None:
        """Check that `use` gives a right result; raise Refused or Fault."""
        note(use.__name__)
        value = call(use, self, copy)
        if value not in self.expected[use.__name__]:
            raise Fault(f"wrong result in silence: {use.__name__} gives {str(value)[:200]}")


@contextmanager
def _copied(sound: Path, to: Path) -> Iterator[Path]:
    shutil.copytree(sound, to)
    yield to
    shutil.rmtree(to.parent)


def damaged_copy(sound: Path, folder: Path, patterns: list[str], chance: Random) -> Path:
    """Return a copy of an undamaged folder, under its own name in `folder`, with one file damaged."""
    copy = folder / sound.name
    shutil.copytree(sound, copy)
    note(damage_folder(copy, patterns, chance))
    return copy


def digest(*arrays: Any) -> str:
    sha256 = hashlib.sha256()
    for array in arrays:
        sha256.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def read_result(path: Path) -> dict[str, Any]:
    """Return a JSON result without the paths in it."""
    return {name: value for name, value in json.loads(path.read_text()).items() if name not in ("checkpoint", "data")}
