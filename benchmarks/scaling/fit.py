"""Fit the law of pipeline.budget.law to runs, with its uncertainty.

The fit minimizes the Huber loss of the log of the loss from several starts (Hoffmann et al. 2022, section 3.3), by
SciPy's trust region method, which handles bounds; the paper uses L-BFGS.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np
from scipy.optimize import least_squares

from pipeline.budget.law import Curve, LawRun

_DELTA = 1e-3  # of the Huber loss, in log loss, as in the paper: half a percent of perplexity at a loss of 5.5 nats
_PUBLISHED = (0.34, 0.28)  # exponents of parameters and tokens in the paper's equation 10
_LEAST, _MOST = 0.02, 2.0  # bounds of an exponent
_LEAST_KINDS = 3  # different sizes, and different budgets of tokens; two do not determine an exponent beside E
_MAX_RATIO = 2.0  # of an exponent's values when single runs are left out; above it the runs do not determine it
_CENTRE = (1e6, 1e6)  # parameters and tokens at which factors are fitted, so that all unknowns are near 1
_STARTS = tuple(product((0.5, 2.0, 3.5), (0.15, 0.35, 0.7), (0.15, 0.35, 0.7)))  # E, a, b
_RESAMPLES = 100
_DIGITS = 6  # of a number in law.json


@dataclass(frozen=True)
class Fit:
    """The best curve, resampled curves with a residual each, and whether the exponents are fitted or published ones."""

    curve: Curve
    resampled: list[Curve]
    exponents: Literal["fitted", "published"]


def fit_law(runs: Sequence[LawRun]) -> Fit:
    """Return the fit of at least four runs. Exponents that the runs do not determine are the published ones.

    Residuals are those of the best curve, inflated by sqrt(runs / (runs - fitted numbers)) as few runs are fitted
    closely. A resampled curve is the fit of a loss that residuals drawn with replacement were added to, and predicts a
    run with one more drawn residual.
    """
    sizes, tokens, losses = _arrays(runs)
    curve, residuals = _best(sizes, tokens, losses, None)
    is_fitted = _are_exponents_determined(sizes, tokens, losses, curve)
    fixed = None if is_fitted else _PUBLISHED
    if fixed is not None:
        curve, residuals = _best(sizes, tokens, losses, fixed)
    unknowns = 5 if is_fitted else 3
    residuals = residuals * math.sqrt(len(runs) / max(1, len(runs) - unknowns))
    chance, resampled = np.random.default_rng(0), []
    predicted = np.array([curve.loss(size, token) for size, token in zip(sizes, tokens, strict=True)])
    for _ in range(_RESAMPLES):
        drawn = chance.choice(residuals, len(runs) + 1)
        again, _ = _best(sizes, tokens, predicted * np.exp(drawn[:-1]), fixed, starts=[_unknowns(curve)])
        resampled.append(_rounded(again, float(drawn[-1])))
    return Fit(_rounded(curve), resampled, "fitted" if is_fitted else "published")


def _arrays(runs: Sequence[LawRun]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return parameters, tokens and losses in nats, (runs,) each."""
    sizes, tokens = (np.array([getattr(run, name) for run in runs], float) for name in ("parameters", "tokens"))
    return sizes, tokens, np.log([run.perplexity for run in runs])


def _are_exponents_determined(sizes: np.ndarray, tokens: np.ndarray, losses: np.ndarray, best: Curve) -> bool:
    """Return whether both exponents stay within a ratio of _MAX_RATIO and off their bounds without any one run."""
    if min(len(set(sizes)), len(set(tokens))) < _LEAST_KINDS:
        return False
    found = []
    for left_out in range(len(losses)):
        kept = np.arange(len(losses)) != left_out
        curve, _ = _best(sizes[kept], tokens[kept], losses[kept], None, [_unknowns(best)])
        found.append((curve.size_exponent, curve.token_exponent))
    low, high = np.min(found, 0), np.max(found, 0)
    return bool((high <= _MAX_RATIO * low).all() and (low > 1.01 * _LEAST).all() and (high < 0.99 * _MOST).all())


def _best(
    sizes: np.ndarray,
    tokens: np.ndarray,
    losses: np.ndarray,
    exponents: tuple[float, float] | None,
    starts: Sequence[tuple[float, ...]] = _STARTS,
) -> tuple[Curve, np.ndarray]:
    """Return the curve of the lowest Huber loss of all starts, and the residuals (runs,) of its log loss.

    exponents: None to fit them. starts: values of E, a, b, and if they are known, of both factors.
    """
    solutions = []
    for start in starts if exponents is None else {(start[0], *exponents, *start[3:]) for start in starts}:
        rest = max(0.1, float(losses.mean()) - start[0]) / 2
        first = [start[0], *(start[3:] or (rest, rest))]
        low, high = [0.0, 0.0, 0.0], [50.0, 50.0, 50.0]
        if exponents is None:
            first, low, high = [*first, *start[1:3]], [*low, _LEAST, _LEAST], [*high, _MOST, _MOST]

        def misfit(unknowns: np.ndarray) -> np.ndarray:
            e, of_size, of_tokens, a, b = _terms(unknowns, exponents)
            loss = e + of_size * (sizes / _CENTRE[0]) ** -a + of_tokens * (tokens / _CENTRE[1]) ** -b
            return np.log(np.maximum(loss, 1e-9)) - np.log(losses)

        inside = np.clip(first, np.array(low) + 1e-6, np.array(high) - 1e-6)
        tolerances = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12}
        solutions.append(
            least_squares(misfit, inside, bounds=(low, high), loss="huber", f_scale=_DELTA, max_nfev=500, **tolerances)
        )
    best = min(solutions, key=lambda solution: float(solution.cost))
    e, of_size, of_tokens, a, b = _terms(best.x, exponents)
    curve = Curve(e, of_size * _CENTRE[0] ** a, a, of_tokens * _CENTRE[1] ** b, b)
    return curve, -np.asarray(best.fun)


def _terms(unknowns: np.ndarray, exponents: tuple[float, float] | None) -> list[float]:
    """Return E, the factors at _CENTRE, a and b of a solution of `_best`."""
    return [float(number) for number in (*unknowns, *(exponents or ()))]


def _unknowns(curve: Curve) -> tuple[float, ...]:
    """Return E, a, b and the factors at _CENTRE, as a start of `_best`."""
    of_size = curve.size_factor / _CENTRE[0] ** curve.size_exponent
    of_tokens = curve.token_factor / _CENTRE[1] ** curve.token_exponent
    return curve.irreducible, curve.size_exponent, curve.token_exponent, of_size, of_tokens


def _rounded(curve: Curve, residual: float = 0.0) -> Curve:
    numbers = (curve.irreducible, curve.size_factor, curve.size_exponent, curve.token_factor, curve.token_exponent)
    return Curve(*(float(f"{number:.{_DIGITS}g}") for number in (*numbers, residual)))
