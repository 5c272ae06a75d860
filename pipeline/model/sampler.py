"""Log-uniform candidate words without repetition, as TF's log_uniform_candidate_sampler draws them."""

import math

import numpy as np

from pipeline.config import ConfigError


class LogUniformSampler:
    """Draws candidates with P(k) = log((k + 2) / (k + 1)) / log(V + 1): words must be sorted by falling count.

    A draw is a pure function of its key, so that all ranks agree without talking.
    Source: tensorflow/core/kernels/range_sampler.cc; bilm-tf training.py:502-509.
    """

    def __init__(self, vocab_size: int, num_samples: int) -> None:
        if num_samples > vocab_size:
            raise ConfigError(
                f"softmax.num_samples={num_samples} is more than the vocabulary of {vocab_size} words; "
                f"use at most {vocab_size}, or softmax.kind=full"
            )
        self.vocab_size, self.num_samples = vocab_size, num_samples
        self._first_seen = np.zeros(vocab_size, dtype=np.int64)

    def draw(self, *key: int) -> tuple[np.ndarray, int]:
        """Returns the candidates (num_samples,) int64 in the order drawn, and how many draws that took."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        draws = np.empty(0, dtype=np.int64)
        while True:
            size = max(2 * self.num_samples, 64, len(draws))  # doubles: few rounds even when all words are wanted
            more = np.expm1(rng.random(size) * math.log(self.vocab_size + 1))
            draws = np.concatenate([draws, np.minimum(more.astype(np.int64), self.vocab_size - 1)])
            firsts = self._first_occurrences(draws)
            if len(firsts) >= self.num_samples:
                last = firsts[self.num_samples - 1]
                return draws[firsts[: self.num_samples]], int(last) + 1

    def _first_occurrences(self, draws: np.ndarray) -> np.ndarray:
        """Where each drawn word occurs first, rising. Costs the draws, not the vocabulary: no sort, no clearing."""
        places = np.arange(len(draws))
        self._first_seen[draws[::-1]] = places[::-1]  # the last write wins, hence the first occurrence
        return np.flatnonzero(self._first_seen[draws] == places)
