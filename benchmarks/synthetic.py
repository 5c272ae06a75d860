"""Make synthetic corpora with the word frequencies and sentence lengths of the 1B benchmark, of any size.

python -m benchmarks.synthetic FOLDER [--sentences=30301028] [--files=99] [--seed=0] [--workers=0] [--tail=1.78]

FOLDER gets text files with one tokenised sentence per line. The same options give the same bytes for any number of
workers (with the same version of NumPy). Default: 30.3 M sentences, about 768 M words of 2.4 M types, of which 0.79 M
occur at least three times.

Words are drawn independently. Type k has probability ~ 1 / (k + 2.7) up to rank 5,000 (Zipf-Mandelbrot) and ~ k^-tail
beyond, as in large corpora (Ferrer i Cancho and Sole 2001). There are 46.8 M types to draw from. A smaller tail gives
more types: 1.4 gives 10 M types in 768 M words. Spellings are syllables, fewer for frequent types: 5.3 bytes per word,
its space included.
Sentences have 1 + floor(Gamma(4) x 6.2) words: mean 25.3, standard deviation 12.4.
"""

import concurrent.futures
import multiprocessing
import os
import sys
import time
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from benchmarks.measure.command import split_options

_SHIFT, _BREAK = 2.7, 5_000.0
_LENGTH_SHAPE, _LENGTH_SCALE = 4.0, 6.2
_BLOCK_SENTENCES = 4096
_ONSETS = [*"bcdfghjklmnprstvwz", "th", "st", "br", "cr", "tr", "ch", "sh", "pl", "gr", "fl", "sp", "dr"]
_NUCLEI = [*"aeiouy", "ea", "ou", "ai", "oo", "ie", "io"]
_SYLLABLES = sorted((onset + nucleus for onset, nucleus in product(_ONSETS, _NUCLEI)), key=lambda s: crc32(s.encode()))
_BASE = len(_SYLLABLES)
_NEAR = _BASE + _BASE**2  # types of one or two syllables, whose spellings are kept
NUM_TYPES = _NEAR + _BASE**3


@dataclass(frozen=True)
class Corpus:
    """All that determines a corpus. tail: the exponent of rare words' frequencies, above 1."""

    sentences: int = 30_301_028
    files: int = 99
    seed: int = 0
    tail: float = 1.78

    def sentences_in(self, file: int) -> int:
        """Return the number of sentences of file number `file`; all files have about equally many."""
        return self.sentences * (file + 1) // self.files - self.sentences * file // self.files


class WordSampler:
    """Draw types by inverting the distribution function, which needs no table."""

    def __init__(self, tail: float) -> None:
        self._slope = tail - 1
        self._edge = _BREAK + _SHIFT
        self._head = np.log(self._edge / _SHIFT)
        end = (NUM_TYPES + _SHIFT) / self._edge
        self._total = self._head + (1 - end**-self._slope) / self._slope

    def draw(self, random: np.random.Generator, number: int) -> np.ndarray:
        """Return (number,) int64: ranks of types, 0 the most frequent."""
        mass = random.random(number)
        mass *= self._total
        rare = np.flatnonzero(mass >= self._head)
        beyond = self._edge * (1 - self._slope * (mass[rare] - self._head)) ** (-1 / self._slope)
        value = np.exp(mass, out=mass)
        value *= _SHIFT
        value[rare] = beyond
        value -= _SHIFT
        return np.minimum(value.astype(np.int64), NUM_TYPES - 1)


class Speller:
    """Spell types as rows of 16 bytes: letters and zeros, then a space."""

    def __init__(self) -> None:
        self._syllables = np.array([s.encode().ljust(4, b"\0") for s in _SYLLABLES], "S4").view(np.uint32)
        self._space = np.frombuffer(b"\0\0\0 ", np.uint32)[0]
        self._near = self._spell(np.arange(_NEAR)).view(np.uint8)

    def _spell(self, ranks: np.ndarray) -> np.ndarray:
        """Return (n, 4) uint32. Consonants and vowels alternate, so that no two types have the same spelling."""
        rows = np.zeros((len(ranks), 4), np.uint32)
        rows[:, 3] = self._space
        for syllables, first, stop in ((1, 0, _BASE), (2, _BASE, _NEAR), (3, _NEAR, NUM_TYPES)):
            here = np.flatnonzero((ranks >= first) & (ranks < stop))
            rest = ranks[here] - first
            for place in range(syllables):
                rest, digit = np.divmod(rest, _BASE)
                rows[here, place] = self._syllables[digit]
        return rows

    def text(self, ranks: np.ndarray, ends: np.ndarray) -> bytes:
        """Return the words separated by spaces, with a newline after the words at `ends`."""
        rows = self._near.take(np.minimum(ranks, _NEAR - 1), axis=0)
        far = np.flatnonzero(ranks >= _NEAR)
        rows[far] = self._spell(ranks[far]).view(np.uint8)
        rows[ends, -1] = ord("\n")
        return rows.tobytes().translate(None, b"\0")


def write_file(path: Path, corpus: Corpus, file: int) -> int:
    """Write file number `file` of the corpus; return its number of words."""
    random = np.random.Generator(np.random.PCG64(np.random.SeedSequence((corpus.seed, file))))
    sampler, speller, words = WordSampler(corpus.tail), Speller(), 0
    left = corpus.sentences_in(file)
    with open(path, "wb") as out:
        while left:
            number = min(left, _BLOCK_SENTENCES)
            lengths = 1 + random.gamma(_LENGTH_SHAPE, _LENGTH_SCALE, number).astype(np.int64)
            ends = np.cumsum(lengths)
            out.write(speller.text(sampler.draw(random, int(ends[-1])), ends - 1))
            words, left = words + int(ends[-1]), left - number
    return words


def write_corpus(folder: Path, corpus: Corpus, workers: int = 1) -> tuple[list[str], int]:
    """Write the corpus into `folder`, which is created; return its files' names and its number of words."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"part-{file:05d}-of-{corpus.files:05d}.txt" for file in range(corpus.files)]
    if workers == 1:
        words = [write_file(path, corpus, file) for file, path in enumerate(paths)]
    else:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
            words = list(pool.map(write_file, paths, [corpus] * len(paths), range(len(paths))))
    return [str(path) for path in paths], sum(words)


def corpus_of(options: dict[str, Any]) -> Corpus:
    """Return the corpus that the options of a command describe, whose defaults are asdict(Corpus())."""
    return Corpus(**{name: options[name] for name in asdict(Corpus())})


def main(arguments: list[str]) -> None:
    """Write the corpus and print what it holds."""
    options, folders = split_options(__doc__, arguments, workers=0, **asdict(Corpus()))
    if len(folders) != 1:
        raise SystemExit("give one argument: FOLDER")
    begun = time.perf_counter()
    paths, words = write_corpus(Path(folders[0]), corpus_of(options), options["workers"] or os.cpu_count() or 1)
    seconds = time.perf_counter() - begun
    print(
        f"{words:,} words in {options['sentences']:,} sentences of {len(paths)} files, "
        f"{sum(map(os.path.getsize, paths)) / 1e6:,.0f} MB; {seconds:.1f} s, {words / seconds / 1e6:.1f} M words/s"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
