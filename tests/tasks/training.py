"""A small task of named entities with a tiny biLM, trained by the real command in seconds."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import cli
from pipeline.model.formats.pretrained import save_pretrained
from tests.model import tiny

PLACES, PEOPLE, OTHERS = ("Lima", "Oslo", "Rome"), ("Anna", "Omar", "Lee"), ("sees", "the", "river", "of", "and")
SMALL = ("network.hidden=[8]", "words.dim=8", "words.characters.dim=4", "words.characters.filters=[[2,8]]",
         "training.batch_size=8", "training.accelerator=cpu", "training.threads=1", "wandb.mode=disabled")  # fmt: skip


def write_columns(path: Path, sentences: int, seed: int) -> Path:
    """Write sentences whose names are entities of two words: the type follows from the second."""
    chance = np.random.default_rng(seed)
    lines = []
    for _ in range(sentences):
        for _ in range(int(chance.integers(1, 4))):
            lines += [f"{word} O" for word in chance.choice(OTHERS, int(chance.integers(1, 4)))]
            kind, second = ("LOC", PLACES) if chance.random() < 0.5 else ("PER", PEOPLE)
            lines += [f"New B-{kind}", f"{chance.choice(second)} I-{kind}"]
        lines.append("")
    path.write_text("\n".join(lines) + "\n")
    return path


def make_files(folder: Path) -> Path:
    """Write train.conll, dev.conll and a biLM in bilm/ into the folder."""
    write_columns(folder / "train.conll", 40, 1)
    write_columns(folder / "dev.conll", 12, 2)
    save_pretrained(folder / "bilm", tiny.bilm(tiny.config()).core())
    return folder


def task(folder: Path, run: str, *options: str, name: str = "ner") -> int:
    """Run `elmo task` on the folder's files; return its exit code."""
    return cli.main(["task", name, *arguments(folder, run), *options])


def arguments(folder: Path, run: str) -> list[str]:
    return [
        f"train={folder / 'train.conll'}", f"dev={folder / 'dev.conll'}", f"run.dir={folder / run}",
        f"elmo.cache_dir={folder / 'layers'}", *SMALL,
    ]  # fmt: skip


def weights(folder: Path, run: str) -> bytes:
    return (folder / run / "model" / "model.safetensors").read_bytes()


def last_state(folder: Path, run: str) -> dict[str, Any]:
    """Return the content of the run's checkpoint, except its times and the settings that the run was started with."""
    content: dict[str, Any] = torch.load(folder / run / "last.ckpt", weights_only=True)
    content["state"].pop("seconds")
    content.pop("identity")
    return content


def with_elmo(folder: Path, **options: Any) -> list[str]:
    return [f"elmo.checkpoint={folder / 'bilm'}", *(f"elmo.{name}={value}" for name, value in options.items())]
