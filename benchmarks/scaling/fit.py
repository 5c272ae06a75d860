"""Fit the law of pipeline.budget.law to runs, with its uncertainty.

The fit minimizes the Huber loss of the log of the loss from several starts (Hoffmann et al. 2022, section 3.3), by
SciPy's trust region method, which handles bounds; the paper uses L-BFGS. The exponent of the sum is that of Kaplan
et al. 2020, table 2: runs of a few budgets do not determine it beside the others.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
from scipy.optimize import least_squares

from pipeline.budget.law import Curve, LawRun

_DELTA = 1e-3  # of the Huber loss, in log loss, as in the paper: half a percent of perplexity at a loss of 5.5 nats
_SUM_EXPONENT = 0.103  # Kaplan et al. 2020, table 2
_PUBLISHED = (0.076 / _SUM_EXPONENT, 1.0)  # exponents of parameters and tokens there
_LEAST, _MOST = 0.05, 5.0  # bounds of these exponents
_LEAST_SIZES = 3  # two do not determine an exponent beside E
_LEAST_RUNS = 6  # without one of them, as many as there are numbers to fit
_MAX_RATIO = 2.0  # of an exponent's values when single runs are left out; above it the runs do not determine it
_CENTRE = 1e6  # parameters and tokens at which the logs of both factors are fitted, so that they are near 10
_MOST_LOG = 60.0  # bound of these logs
_STARTS = tuple(product((0.5, 2.0, 3.5), (0.4, 0.8, 1.6), (0.5, 1.0)))  # E, a, b
_RESAMPLES = 100
_DIGITS = 6  # of a number in law.json


@dataclass(frozen=True)
class Fit:
    """The best curve, resampled curves with a residual each, and whether the exponents are fitted or published."""

    curve: Curve
    resampled: list[Curve]
    exponent: Literal["fitted", "published"]


def fit_law(runs: Sequence[LawRun]) -> Fit:
    """Return the fit of at least four runs. Where they do not determine the exponents, these are the published ones.

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
        again, _ = _best(sizes, tokens, predicted * np.exp(drawn[:-1]), fixed, [_unknowns(curve)])
        resampled.append(_rounded(again, float(drawn[-1])))
    return Fit(_rounded(curve), resampled, "fitted" if is_fitted else "published")


def _arrays(runs: Sequence[LawRun]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return parameters, tokens and losses in nats, (runs,) each."""
    sizes, tokens = (np.array([getattr(run, name) for run in runs], float) for name in ("parameters", "tokens"))
    return sizes, tokens, np.log([run.perplexity for run in runs])


def _are_exponents_determined(sizes: np.ndarray, tokens: np.ndarray, losses: np.ndarray, best: Curve) -> bool:
    """Return whether each exponent stays within a ratio of _MAX_RATIO and off its bounds without any one run."""
    if len(set(sizes)) < _LEAST_SIZES or len(sizes) <= _LEAST_RUNS:
        return False
    found = []
    for left_out in range(len(losses)):
        kept = np.arange(len(losses)) != left_out
        curve, _ = _best(sizes[kept], tokens[kept], losses[kept], None, [_unknowns(best)])
        found.append((curve.size_exponent, curve.token_exponent))
    ranges = [(min(values), max(values)) for values in zip(*found, strict=True)]
    return all(high <= _MAX_RATIO * low and low > 1.01 * _LEAST and high < 0.99 * _MOST for low, high in ranges)


def _best(
    sizes: np.ndarray,
    tokens: np.ndarray,
    losses: np.ndarray,
    exponents: tuple[float, float] | None,
    starts: Sequence[tuple[float, ...]] = _STARTS,
) -> tuple[Curve, np.ndarray]:
    """Return the curve of the lowest Huber loss of all starts, and the residuals (runs,) of its log loss.

    exponents: a and b, None to fit them. starts: E, a and b, and if known, both factors' logs.
    """
    solutions = []
    for start in starts if exponents is None else {(start[0], *exponents, *start[3:]) for start in starts}:
        rest = max(0.1, float(losses.mean()) - start[0])
        half = math.log(rest) / _SUM_EXPONENT - math.log(2.0)
        first = [start[0], *(start[3:] or (half, half))]
        low, high = [0.0, -_MOST_LOG, -_MOST_LOG], [50.0, _MOST_LOG, _MOST_LOG]
        if exponents is None:
            first, low, high = [*first, *start[1:3]], [*low, _LEAST, _LEAST], [*high, _MOST, _MOST]

        def misfit(unknowns: np.ndarray) -> np.ndarray:
            e, of_size, of_tokens, a, b = (*unknowns, *(exponents or ()))
            reducible = np.exp(of_size) * (sizes / _CENTRE) ** -a + np.exp(of_tokens) * (tokens / _CENTRE) ** -b
            return np.log(np.maximum(e + reducible**_SUM_EXPONENT, 1e-9)) - np.log(losses)

        inside = np.clip(first, np.array(low) + 1e-6, np.array(high) - 1e-6)
        tolerances = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12}
        solutions.append(
            least_squares(misfit, inside, bounds=(low, high), loss="huber", f_scale=_DELTA, max_nfev=500, **tolerances)
        )
    best = min(solutions, key=lambda solution: float(solution.cost))
    e, of_size, of_tokens = (float(number) for number in best.x[:3])
    a, b = exponents or map(float, best.x[3:])
    curve = Curve(e, math.exp(of_size) * _CENTRE**a, a, math.exp(of_tokens) * _CENTRE**b, b, _SUM_EXPONENT)
    return curve, -np.asarray(best.fun)


def _unknowns(curve: Curve) -> tuple[float, ...]:
    """Return E, a, b and the logs of the factors at _CENTRE, as a start of `_best`."""
    a, b, centre = curve.size_exponent, curve.token_exponent, math.log(_CENTRE)
    logs = math.log(curve.size_factor) - a * centre, math.log(curve.token_factor) - b * centre
    return curve.irreducible, a, b, *logs


def _rounded(curve: Curve, residual: float = 0.0) -> Curve:
    return Curve(*(float(f"{number:.{_DIGITS}g}") for number in astuple(replace(curve, residual=residual))))
