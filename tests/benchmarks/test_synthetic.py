"""Synthetic corpora have the same bytes for any number of processes, and the distribution that is documented."""

from pathlib import Path

import numpy as np

from benchmarks.synthetic import NUM_TYPES, Corpus, Speller, WordSampler, write_corpus


def test_the_bytes_do_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    corpus = Corpus(sentences=3000, files=3, seed=5)
    found = []
    for workers in (1, 2):
        paths, words = write_corpus(tmp_path / str(workers), corpus, workers)
        texts = [Path(path).read_bytes() for path in paths]
        assert sum(len(text.split()) for text in texts) == words
        assert [text.count(b"\n") for text in texts] == [1000] * 3
        found.append(texts)
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


def test_sentences_have_the_mean_length_of_the_1b_benchmark(tmp_path: Path) -> None:
    _, words = write_corpus(tmp_path, Corpus(sentences=20_000, files=1))
    assert abs(words / 20_000 - 25.3) < 0.4  # standard error 0.09


def test_words_have_the_expected_frequencies() -> None:
    sampler = WordSampler(1.78)
    ranks = sampler.draw(np.random.default_rng(0), 1_000_000)
    head = np.log((np.arange(1, 6) + 2.7) / (np.arange(5) + 2.7))
    assert np.allclose(np.bincount(ranks, minlength=5)[:5] / 1e6, head / head[0] * np.mean(ranks == 0), rtol=0.03)
    assert abs(len(np.unique(ranks)) / expected_types(1_000_000, 1.78) - 1) < 0.02


def expected_types(words: int, tail: float) -> float:
    """Return the expected number of types: a sum over ranges of ranks, by the distribution of benchmarks.synthetic."""
    edges, slope, edge = np.unique(np.geomspace(1, NUM_TYPES, 1 << 18).astype(int)) + 1.7, tail - 1, 5002.7
    beyond = (1 - np.maximum(edges / edge, 1) ** -slope) / slope
    below = np.log(np.minimum(edges, edge) / 2.7) + beyond
    widths = np.diff(edges)
    return float((widths * -np.expm1(-words * np.diff(below) / widths / below[-1])).sum())


def test_no_two_types_have_the_same_spelling() -> None:
    random = np.random.default_rng(0)
    ranks = np.unique(np.concatenate([np.arange(200_000), random.integers(0, NUM_TYPES, 200_000), [NUM_TYPES - 1]]))
    words = Speller().text(ranks, np.array([len(ranks) - 1])).decode().split()
    assert len(set(words)) == len(words) == len(ranks)
