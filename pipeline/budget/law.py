"""The law that predicts held-out perplexity from the parameters of a biLM and the tokens it learns from.

loss = E + (A / N^a + B / D^b)^s, in nats per token, with N parameters and D training tokens each way: equation 1.5 of
Kaplan et al. 2020, "Scaling Laws for Neural Language Models", with an irreducible part E and an exponent b, which is 1
there. Size matters little while tokens are few, and more and more with more of them; a sum of two separate terms
(Hoffmann et al. 2022) misses that, and b = 1 expects too little of more tokens (docs/results.md). N is the parameters
of the LSTM layers. The encoder of words is left out, as embeddings are by Kaplan et al., section 2.1: a much larger one
does not lower the loss (lab/2026-11.md). The softmax is left out too.

`python -m benchmarks.scaling` trains the runs, fits the law and writes law.json.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, MinLen

from data_prep.dataset.typed_json import load_json
from pipeline.config.packaged import packaged_folder
from pipeline.config.schema import ConfigError

_RANGE = (0.05, 0.95)  # quantiles of the resampled predictions
_REPEATS_SCALE = 15.39  # R_D* of Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", equation 5
_REMEDY = "give the law.json that python -m benchmarks.scaling wrote, or leave out law= to take the one of the package"

_Factor = Annotated[float, Ge(0), Le(1e30)]
_Exponent = Annotated[float, Ge(0), Le(10)]
_Perplexity = Annotated[float, Gt(1), Le(1e30)]
_Number = Annotated[int, Ge(1), Le(1 << 60)]


@dataclass(frozen=True)
class Curve:
    """The terms of the law. irreducible: E in nats. residual: of one run, relative to the loss; 0 in the best fit.

    sum_exponent: s of the sum of both terms.
    """

    irreducible: _Factor
    size_factor: _Factor
    size_exponent: _Exponent
    token_factor: _Factor
    token_exponent: _Exponent
    sum_exponent: _Exponent
    residual: Annotated[float, Ge(-1), Le(1)] = 0.0

    def loss(self, parameters: float, tokens: float) -> float:
        """Return the mean loss in nats per token."""
        reducible = self.size_factor / parameters**self.size_exponent + self.token_factor / tokens**self.token_exponent
        return (self.irreducible + reducible**self.sum_exponent) * (1 + self.residual)

    def perplexity(self, parameters: float, tokens: float) -> float:
        return math.exp(min(self.loss(parameters, tokens), 700.0))


@dataclass(frozen=True)
class LawRun:
    """A training of the law.

    parameters: of the LSTM layers. tokens: each way. perplexity: held out. seconds_per_step: of training alone.
    """

    name: str
    parameters: _Number
    tokens: _Number
    perplexity: _Perplexity
    seconds_per_step: Annotated[float, Ge(0), Le(1e9)]


@dataclass(frozen=True)
class Check:
    """A run that the fit did not use. error: predicted / measured perplexity - 1."""

    run: LawRun
    predicted: _Perplexity
    error: float


@dataclass(frozen=True)
class Prediction:
    """An expected held-out perplexity, and the range that holds it in nine cases of ten."""

    perplexity: float
    low: float
    high: float


@dataclass(frozen=True)
class Law:
    """The content of law.json. text, words: the text and the size of the vocabulary that perplexities are over.

    exponent: those of size and tokens are fitted, or the published ones if the runs do not determine them. resampled:
    fits of resampled residuals (benchmarks/scaling/fit.py).
    """

    text: str
    words: _Number
    lanes: _Number
    window: _Number
    date: str
    commit: str
    exponent: Literal["fitted", "published"]
    fit: Curve
    resampled: Annotated[list[Curve], MinLen(1)]
    runs: Annotated[list[LawRun], MinLen(1)]
    check: Check

    def predict(self, parameters: int, tokens: float) -> Prediction:
        """Return the expected perplexity after `tokens` tokens, none of them repeated."""
        likely = sorted(curve.perplexity(parameters, tokens) for curve in self.resampled)
        low, high = (likely[round(share * (len(likely) - 1))] for share in _RANGE)
        best = self.fit.perplexity(parameters, tokens)
        return Prediction(best, min(low, best), max(high, best))

    def covers(self, parameters: int, tokens: float) -> bool:
        """Return whether parameters and tokens are between those of the law's runs."""
        sizes, lengths = [run.parameters for run in self.runs], [run.tokens for run in self.runs]
        return min(sizes) <= parameters <= max(sizes) and min(lengths) <= tokens <= max(lengths)

    @property
    def extent(self) -> str:
        """Return the parameters and tokens of the law's runs as text."""
        sizes, lengths = [run.parameters for run in self.runs], [run.tokens for run in self.runs]
        of_sizes = f"{millions(min(sizes))} to {millions(max(sizes))} LSTM parameters"
        return f"{of_sizes} and {millions(min(lengths))} to {millions(max(lengths))} tokens"


def read_law(path: str = "") -> Law:
    """Return the law in the file at `path`, "" for the one of the package. Raises ConfigError if there is none."""
    file = Path(path).expanduser() if path else packaged_folder("configs") / "law.json"
    try:
        law: Law = load_json(file, Law, _REMEDY, ConfigError)
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no law to predict perplexity with; {_REMEDY}") from None
    return law


def effective_tokens(tokens: float, unique: int) -> float:
    """Return the number of new tokens that are worth as much as `tokens` tokens of a text of `unique` tokens.

    The first repeats are worth almost as much as new text, later ones less and less (Muennighoff et al. 2023, eq. 5).
    """
    repeats = max(0.0, tokens / unique - 1)
    return min(tokens, unique) + unique * _REPEATS_SCALE * (1 - math.exp(-repeats / _REPEATS_SCALE))


def millions(number: float) -> str:
    """Return a number in millions, to two digits or more: 0.2 M, 13.6 M, 250 M."""
    value = number / 1e6
    return f"{value:,.0f} M" if value >= 100 else f"{value:.1f} M" if value >= 0.1 else f"{value:.2g} M"
