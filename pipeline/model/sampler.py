"""Log-uniform candidate words without repetition, drawn as by TF's log_uniform_candidate_sampler.

Integer arithmetic only: the last bit of a floating-point exp differs between processors, and ranks would then draw
different candidates.
"""

import math

import numpy as np

from pipeline.config.schema import ConfigError

_DIGIT_BITS, _DIGITS = 14, 3  # a draw is a fraction u of three digits of 14 bits
_BLOCK = 8192  # draws at a time: malloc reuses buffers of this size instead of asking the system for memory
_EXACT_BITS = 128  # after the binary point, where the tables are computed
_FACTOR_BITS = (0, 41, 55)  # after the binary point in the tables of the second and the third digit: below 2^32


class LogUniformSampler:
    """Draw candidates with P(k) = log((k + 2) / (k + 1)) / log(V + 1). Words must be sorted by falling count.

    A draw is a pure function of its key, the same bits on every processor, so that ranks need not communicate.
    The relative error of each probability is at most 1e-5 up to V = 1,000,000, and 1 % up to V = 2^30.
    Source: tensorflow/core/kernels/range_sampler.cc; bilm-tf training.py:502-509.
    """

    def __init__(self, vocab_size: int, num_samples: int) -> None:
        if num_samples > vocab_size:
            raise ConfigError(
                f"softmax.num_samples={num_samples} is more than the vocabulary of {vocab_size} words; "
                f"use at most {vocab_size}, or softmax.kind=full"
            )
        self.vocab_size, self.num_samples = vocab_size, num_samples
        self._fraction_bits, self._tables = _power_tables(vocab_size + 1)
        self._first_seen = np.zeros(vocab_size, dtype=np.int32)

    def draw(self, *key: int) -> tuple[np.ndarray, int]:
        """Return the candidates (num_samples,) int64 in the order drawn, and the number of draws."""
        bits = np.random.Philox(np.random.SeedSequence(key))
        draws = np.empty(0, dtype=np.int64)
        while True:
            size = max(2 * self.num_samples, 64, len(draws))  # doubles: few rounds even if all words are needed
            blocks = (bits.random_raw(min(_BLOCK, size - start)) for start in range(0, size, _BLOCK))
            draws = np.concatenate([draws, *map(self._words, blocks)])
            firsts = self._first_occurrences(draws)
            if len(firsts) >= self.num_samples:
                last = firsts[self.num_samples - 1]
                return draws[firsts[: self.num_samples]], int(last) + 1

    def _words(self, bits: np.ndarray) -> np.ndarray:
        """Return (n,) int64: floor((V + 1)^u) - 1, where u is the fraction of the top 42 of each 64 random bits.

        (V + 1)^u is a product of one factor per digit of u. All roundings are down, so no word is beyond the last.
        """
        fraction = (bits >> np.uint64(64 - _DIGIT_BITS * _DIGITS)).view(np.int64)
        power = self._tables[0].take(fraction >> _DIGIT_BITS * 2)
        for digit in (1, 2):
            place = fraction >> _DIGIT_BITS * (2 - digit)
            place &= (1 << _DIGIT_BITS) - 1
            more = self._tables[digit].take(place)
            more *= power >> 32
            more >>= _FACTOR_BITS[digit] - 32
            power += more
        power >>= self._fraction_bits
        power -= 1
        return power

    def _first_occurrences(self, draws: np.ndarray) -> np.ndarray:
        """Return the place of each word's first draw, rising. The cost depends on the draws, not on the vocabulary."""
        places = np.arange(len(draws), dtype=np.int32)
        self._first_seen[draws[::-1]] = places[::-1]  # the last write counts, which is the first occurrence
        return np.flatnonzero(self._first_seen[draws] == places)


def _power_tables(base: int) -> tuple[int, list[np.ndarray]]:
    """Return (fraction bits of the first table, tables (2^14,) int64 of base^u for each value of each digit of u).

    The first table holds base^u, the others hold base^u - 1.
    """
    one, roots = 1 << _EXACT_BITS, [base << _EXACT_BITS]
    for _ in range(_DIGIT_BITS * _DIGITS):
        roots.append(math.isqrt(roots[-1] << _EXACT_BITS))  # base^(1/2), base^(1/4), ...
    fraction_bits = 63 - base.bit_length()
    tables = []
    for digit in range(_DIGITS):
        powers = [one]
        for root in roots[_DIGIT_BITS * digit + 1 : _DIGIT_BITS * (digit + 1) + 1]:
            powers = [value for power in powers for value in (power, power * root >> _EXACT_BITS)]
        less, bits = (one, _FACTOR_BITS[digit]) if digit else (0, fraction_bits)
        tables.append(np.array([power - less >> _EXACT_BITS - bits for power in powers], dtype=np.int64))
    return fraction_bits, tables
