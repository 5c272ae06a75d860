"""Small corpora of text, and functions that read datasets back as sentences."""

import hashlib
import random
from collections import Counter
from itertools import accumulate
from pathlib import Path

from data_prep.dataset.lexicon import EOS_ID
from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset


def sentences_of(dataset: Dataset | Path, split: str = "train") -> list[str]:
    """Return the split's sentences in order, with a space between words."""
    opened = dataset if isinstance(dataset, Dataset) else open_dataset(dataset)
    part = opened.splits[split]
    words = opened.lexicon.words()
    found: list[list[str]] = [[]]
    for number in range(part.num_chunks):
        for token in part.chunk(number).tolist():
            if token == EOS_ID:
                found.append([])
            else:
                found[-1].append(words[token])
    assert found[-1] == []
    return [" ".join(sentence) for sentence in found[:-1]]


def bytes_of(folder: Path) -> dict[str, str]:
    """Return the hash of every file in a dataset's folder, including hidden ones."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def zipf_sentences(number: int, seed: int, types: int = 3000, max_words: int = 21) -> list[str]:
    """Return sentences with the word frequencies of text, in which the next word can often be predicted from a word."""
    chance = random.Random(seed)
    words = [f"w{i}" if i % 7 else f"wörd{i}" for i in range(types)]
    weights = list(accumulate(1 / (i + 1) for i in range(types)))
    follows = random.Random(0).choices(range(types), cum_weights=weights, k=types)
    sentences = []
    for _ in range(number):
        sentence = chance.choices(range(types), cum_weights=weights)
        for _ in range(chance.randint(0, max_words - 1)):
            likely = chance.random() < 0.6
            sentence.append(follows[sentence[-1]] if likely else chance.choices(range(types), cum_weights=weights)[0])
        sentences.append(" ".join(words[i] for i in sentence))
    return sentences


def write_text(path: Path, sentences: list[str]) -> Path:
    path.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
    return path


def unlike_sentences(number: int, seed: int = 0, types: int = 500) -> list[str]:
    """Return sentences as zipf_sentences makes them, but no two equal, also for different seeds."""
    return [f"n{seed}.{i} {sentence}" for i, sentence in enumerate(zipf_sentences(number, seed, types, 30))]


def write_corpus(folder: Path, files: int = 4, sentences: int = 300, seed: int = 0) -> list[str]:
    """Write files of one sentence a line; return their paths."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"part-{number}.txt" for number in range(files)]
    for number, path in enumerate(paths):
        write_text(path, unlike_sentences(sentences, seed=seed + 1000 * number))
    return [str(path) for path in paths]


def lines_of(paths: list[str]) -> list[str]:
    """Return all lines of the files."""
    return [line for path in paths for line in Path(path).read_text(encoding="utf-8").splitlines()]


def word_counts(sentences: list[str]) -> Counter[str]:
    """Return how often each word occurs."""
    return Counter(word for sentence in sentences for word in sentence.split())
