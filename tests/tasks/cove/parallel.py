"""A made-up language pair: each source word has one translation, and sentences are translated word by word."""

from pathlib import Path

import numpy as np

from pipeline import cli

WORDS = ("a", "dog", "cat", "sees", "The", "red", "old", "river", "and", "runs")
SMALL = ("network.hidden=8", "network.target_dim=6", "training.batch_size=8", "training.accelerator=cpu",
         "training.threads=1", "wandb.mode=disabled")  # fmt: skip


def write_text(folder: Path, name: str, sentences: int, seed: int) -> None:
    """Write NAME.en and NAME.de."""
    chance = np.random.default_rng(seed)
    lines = [[str(word) for word in chance.choice(WORDS, int(chance.integers(1, 7)))] for _ in range(sentences)]
    (folder / f"{name}.en").write_text("".join(" ".join(words) + "\n" for words in lines))
    (folder / f"{name}.de").write_text("".join(" ".join(f"{word}EN" for word in words) + "\n" for words in lines))


def write_vectors(path: Path, dim: int = 6) -> Path:
    """Write vectors of all words but one, in lower case, and of a word that the text does not have."""
    chance = np.random.default_rng(3)
    words = [word.lower() for word in WORDS if word != "river"] + ["moon"]
    path.write_text("".join(" ".join([word, *(f"{v:.4f}" for v in chance.normal(size=dim))]) + "\n" for word in words))
    return path


def make_files(folder: Path) -> Path:
    write_text(folder, "train", 60, 1)
    write_text(folder, "dev", 12, 2)
    write_vectors(folder / "vectors.txt")
    return folder


def arguments(folder: Path, run: str) -> list[str]:
    return [
        f"source={folder / 'train.en'}", f"target={folder / 'train.de'}", f"dev_source={folder / 'dev.en'}",
        f"dev_target={folder / 'dev.de'}", f"vectors={folder / 'vectors.txt'}", f"run.dir={folder / run}", *SMALL,
    ]  # fmt: skip


def train(folder: Path, run: str, *options: str) -> int:
    """Run `elmo cove train`; return its exit code."""
    return cli.main(["cove", "train", *arguments(folder, run), *options])
