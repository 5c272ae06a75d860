"""What `auto` comes to in optimizer.lr and train.precision: decided at the start of a run, and kept when it resumes."""

from collections.abc import Mapping
from typing import Any

from pipeline.config.schema import OptimizerConfig, PretrainConfig
from pipeline.model.backend.precision import suited_precision

_BASE_CELLS = 256
# Rate of a network of _BASE_CELLS cells, and the power by which it falls with the width: lab/recipe.md.
_RATES = {"muon": (0.015, 0.5), "adam": (0.008, 0.75), "adam-adagrad": (0.008, 0.75), "adagrad": (0.2, 0.0)}


def rate_rule(config: OptimizerConfig, cells: int) -> tuple[float, str]:
    """Return the learning rate for LSTM layers of so many cells, to three digits, and its rule in words."""
    base, power = _RATES[config.name]
    rate = float(f"{base * (_BASE_CELLS / cells) ** power:.3g}")
    rule = f"{base} x ({_BASE_CELLS} / {cells:,} cells)^{power}" if power else "at every width"
    return rate, f"{rule}, for {config.name}"


def resolve_auto(config: PretrainConfig, device: str, begun: Mapping[str, Any] | None) -> dict[str, str]:
    """Replace each `auto` in the config by its value; return the values and their reasons by the settings' names.

    device: cuda or cpu. begun: the settings in a checkpoint of the run, whose values are kept; None at its start.
    """
    found: dict[str, str] = {}
    if config.optimizer.lr == "auto":
        rate, why = rate_rule(config.optimizer, config.model.lstm_dim)
        if begun is not None:
            rate, why = begun["optimizer"]["lr"], "as the run began"
        config.optimizer.lr = rate
        found["optimizer.lr"] = f"{rate} ({why})"
    if config.train.precision == "auto":
        precision, why = suited_precision(config.model.lstm_dim, device)
        if begun is not None:
            precision, why = begun["train"]["precision"], "as the run began"
        config.train.precision = precision
        found["train.precision"] = f"{precision} ({why})"
    return found
