"""The log-uniform sampler against a simulation of TF, which draws word after word until enough of them differ."""

import math
import os
import subprocess
import sys
from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.sampler import LogUniformSampler
from pipeline.model.softmax import Softmax
from tests.model.candidates_digest import digest_of_candidates
from tests.model.numpy_bilm import expected_counts

USED_BITS = 42  # used of the 64 random bits of a draw
V, C, TRIALS = 60, 12, 6000  # some words are nearly always candidates, some rarely


def probabilities(vocab_size: int) -> np.ndarray:
    k = np.arange(vocab_size)
    return np.log((k + 2) / (k + 1)) / math.log(vocab_size + 1)


@pytest.fixture(scope="module")
def ours() -> tuple[np.ndarray, np.ndarray]:
    """Return candidates (TRIALS, C) and tries (TRIALS,)."""
    sampler = LogUniformSampler(V, C)
    draws = [sampler.draw(7, step) for step in range(TRIALS)]
    return np.stack([ids for ids, _ in draws]), np.array([tries for _, tries in draws])


@pytest.fixture(scope="module")
def theirs() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    bounds = np.cumsum(probabilities(V))
    drawn = [_draw_one_by_one(rng, bounds) for _ in range(TRIALS)]
    return np.array([ids for ids, _ in drawn]), np.array([tries for _, tries in drawn])


def _draw_one_by_one(rng: np.random.Generator, bounds: np.ndarray) -> tuple[list[int], int]:
    unique: list[int] = []
    tries = 0
    while len(unique) < C:
        word = int(np.searchsorted(bounds, rng.random(), side="right"))
        tries += 1
        if word not in unique:
            unique.append(word)
    return unique, tries


def test_each_word_is_a_candidate_as_often_as_in_the_simulation(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]
) -> None:
    rates = [np.bincount(ids.ravel(), minlength=V) / TRIALS for ids in (ours[0], theirs[0])]
    mean = (rates[0] + rates[1]) / 2
    z = (rates[0] - rates[1]) / np.sqrt(2 * mean * (1 - mean) / TRIALS)
    assert mean.min() < 0.1 and mean.max() > 0.9
    assert np.abs(z).max() < 4 and z.std() < 1.3


def test_the_first_candidate_has_the_log_uniform_distribution(ours: tuple[np.ndarray, np.ndarray]) -> None:
    counts, expected = np.bincount(ours[0][:, 0], minlength=V), probabilities(V) * TRIALS
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(probabilities(V).sum() - 1) < 1e-12
    assert chi_square < V - 1 + 4 * math.sqrt(2 * (V - 1))


def test_every_further_candidate_has_the_distribution_without_the_earlier_ones(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]
) -> None:
    """Compare the mean id at each place in the order of drawing with that of the simulation."""
    means = [ids.mean(0) for ids in (ours[0], theirs[0])]
    deviations = [ids.std(0) / math.sqrt(TRIALS) for ids in (ours[0], theirs[0])]
    assert means[0][-1] > means[0][0] + 5
    assert np.abs((means[0] - means[1]) / np.hypot(*deviations)).max() < 4


def test_the_number_of_tries_is_distributed_as_in_the_simulation(
    ours: tuple[np.ndarray, np.ndarray], theirs: tuple[np.ndarray, np.ndarray]
) -> None:
    tries = np.arange(C, 200)
    ranks = [np.searchsorted(np.sort(values[1]), tries, side="right") / TRIALS for values in (ours, theirs)]
    assert ours[1].min() >= C and ours[1].std() > 3
    assert np.abs(ranks[0] - ranks[1]).max() < 1.95 * math.sqrt(2 / TRIALS)  # Kolmogorov-Smirnov at 0.001


@pytest.mark.parametrize("num_tries", [1, 12, 40, 500])
def test_expected_counts_equal_the_frequency_of_a_word_in_the_draws(num_tries: int) -> None:
    rng = np.random.default_rng(1)
    seen = np.zeros(V)
    for draws in rng.choice(V, size=(4000, num_tries), p=probabilities(V)):
        seen[np.unique(draws)] += 1
    expected = expected_counts(np.arange(V), V, num_tries)
    deviation = np.sqrt(np.maximum(expected * (1 - expected), 1e-4) / 4000)
    assert np.abs((seen / 4000 - expected) / deviation).max() < 4.5


def test_expected_counts_add_up_to_the_size_of_the_set(ours: tuple[np.ndarray, np.ndarray]) -> None:
    """A set of C words holds C words: so does the sum, on average, up to the bias of stopping at the C-th word."""
    sums = [expected_counts(np.arange(V), V, int(tries)).sum() for tries in ours[1][:500]]
    assert abs(np.mean(sums) - C) < 0.3


def test_the_softmax_subtracts_the_log_of_these_expected_counts() -> None:
    vocab_size = 793_471
    ids = np.array([0, 1, 2, 100, 8191, 500_000, vocab_size - 1])
    softmax = Softmax(vocab_size, 1)
    ours = softmax._log_expected(torch.from_numpy(ids), torch.tensor(16_034))
    np.testing.assert_allclose(ours.numpy(), np.log(expected_counts(ids, vocab_size, 16_034)), rtol=1e-12)
    rare = 16_034 * math.log1p(1 / vocab_size) / math.log(vocab_size + 1)  # n P, as n P is small
    assert math.exp(ours[-1].item()) == pytest.approx(rare, rel=2e-3)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_candidates_are_unique_words_and_depend_only_on_the_key(data: st.DataObject) -> None:
    vocab_size = data.draw(st.integers(1, 3000))
    num_samples = data.draw(st.integers(1, vocab_size))
    keys = data.draw(st.lists(st.tuples(st.integers(0, 2**40), st.integers(0, 2**40)), min_size=1, max_size=3))
    sampler = LogUniformSampler(vocab_size, num_samples)
    draws = [sampler.draw(*key) for key in keys]  # earlier draws must not matter
    for key, (ids, num_tries) in reversed(list(zip(keys, draws, strict=True))):
        fresh, fresh_tries = LogUniformSampler(vocab_size, num_samples).draw(*key)
        assert np.array_equal(ids, fresh) and num_tries == fresh_tries
        assert ids.dtype == np.int64 and len(set(ids.tolist())) == num_samples <= num_tries
        assert ids.min() >= 0 and ids.max() < vocab_size


def test_other_keys_give_other_candidates() -> None:
    sampler = LogUniformSampler(10_000, 100)
    sets = {tuple(sampler.draw(seed, step)[0]) for seed in range(20) for step in range(20)}
    assert len(sets) == 400


def test_all_words_of_a_vocabulary_can_be_candidates() -> None:
    for vocab_size in (4, 64, 20_000):
        ids, num_tries = LogUniformSampler(vocab_size, vocab_size).draw(1)
        assert np.array_equal(np.sort(ids), np.arange(vocab_size)) and num_tries > vocab_size


def test_more_candidates_than_words_are_refused() -> None:
    with pytest.raises(ValueError, match="num_samples=11 is more than the vocabulary of 10 words"):
        LogUniformSampler(10, 11)


def test_the_8192_candidates_of_the_paper_take_16034_tries_with_deviation_127() -> None:
    """The vocabulary is that of the 1B Word Benchmark (elmo-numerics, point 15)."""
    sampler = LogUniformSampler(793_471, 8192)
    tries = np.array([sampler.draw(1, step)[1] for step in range(300)])
    assert abs(tries.mean() - 16_034) < 4 * 127 / math.sqrt(300)
    assert 105 < tries.std() < 150


def test_rare_words_of_a_large_vocabulary_are_drawn_at_the_right_rate() -> None:
    """The rounding of exp(u log(V + 1)) must not favour any part of the tail."""
    sampler = LogUniformSampler(793_471, 8192)
    edges = np.array([0, 10, 100, 1000, 10_000, 100_000, 400_000, 793_471])
    seen = sum(np.histogram(sampler.draw(2, step)[0], edges)[0] for step in range(100)) / 100
    expected = np.add.reduceat(expected_counts(np.arange(793_471), 793_471, 16_034), edges[:-1])
    assert np.abs(seen / expected - 1).max() < 0.01


@pytest.mark.parametrize(("vocab_size", "error"), [(1, 1e-12), (2, 1e-11), (1000, 1e-7), (793_471, 1e-5)])
def test_each_word_has_its_share_of_all_random_numbers(vocab_size: int, error: float) -> None:
    """Numbers are counted, not drawn. Words rise with the bits, so that a bisection finds where each word begins."""
    sampler = LogUniformSampler(vocab_size, 1)
    words = np.unique(np.geomspace(1, vocab_size, 5000).astype(np.int64)) - 1
    counts = _first_bits(sampler, words + 1) - _first_bits(sampler, words)
    expected = np.log1p(1 / (words + 1)) / math.log(vocab_size + 1)
    np.testing.assert_allclose(counts / (1 << USED_BITS), expected, rtol=error)


def _first_bits(sampler: LogUniformSampler, words: np.ndarray) -> np.ndarray:
    """Return (n,): the smallest 42-bit number, of the used bits, that gives this word or a later one."""
    low, high = np.zeros(len(words), np.int64), np.full(len(words), 1 << USED_BITS)
    for _ in range(USED_BITS + 1):
        middle = np.minimum((low + high) // 2, (1 << USED_BITS) - 1)
        is_there = (sampler._words(middle.astype(np.uint64) << np.uint64(64 - USED_BITS)) >= words) & (low < high)
        low, high = np.where(is_there | (low == high), low, middle + 1), np.where(is_there, middle, high)
    return low


def test_the_first_and_the_last_bits_give_the_first_and_the_last_word() -> None:
    for vocab_size in (1, 2, 3, 63, 64, 65, 793_471, 1 << 20):
        bits = np.array([0, 2**64 - 1], dtype=np.uint64)
        assert LogUniformSampler(vocab_size, 1)._words(bits).tolist() == [0, vocab_size - 1]


def test_words_equal_those_of_exact_arithmetic() -> None:
    base, digits = 793_472, 50
    bits = np.random.Philox(3).random_raw(300)
    words = LogUniformSampler(base - 1, 1)._words(bits)
    with localcontext() as context:
        context.prec = digits
        powers = [Decimal(base) ** (Decimal(int(b) >> 22) / (1 << USED_BITS)) for b in bits]
    assert words.tolist() == [int(power - Decimal("1e-6")) - 1 for power in powers]


def test_candidates_are_the_same_on_every_machine_and_version() -> None:
    """If you change the candidates you change every run: raise the version of a run's identity (run_dir/lock.py)."""
    assert digest_of_candidates() == "16059 6636440cb98fe92960e7a9a1a1080bf3dbc13b520080e23991f126790a07ff00"


def test_candidates_do_not_depend_on_the_instructions_of_the_processor() -> None:
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])  # type: ignore[index]
    code = "from tests.model.candidates_digest import digest_of_candidates; print(digest_of_candidates())"
    plain = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"NPY_DISABLE_CPU_FEATURES": " ".join(found)},
    )  # fmt: skip
    assert plain.stdout.strip() == digest_of_candidates()
