"""What `auto` comes to in optimizer.lr and train.precision: decided at a run's start; a resumed run keeps its last."""

from collections.abc import Mapping
from typing import Any

from pipeline.config.schema import OptimizerConfig, PretrainConfig
from pipeline.model.backend.precision import suited_precision

_BASE_CELLS, _BASE_STEPS = 256, 800
# Rate of a run of _BASE_STEPS at _BASE_CELLS, and the powers by which it falls with the width and with more steps:
# lab/recipe.md.
_RATES = {
    "muon": (0.015, 0.5, 0.25),
    "adam": (0.008, 0.75, 0.0),
    "adam-adagrad": (0.008, 0.75, 0.0),
    "adagrad": (0.2, 0.0, 0.0),
}


def rate_rule(config: OptimizerConfig, cells: int, steps: int) -> tuple[float, str]:
    """Return the learning rate for LSTM layers of so many cells in a run of so many steps, and its rule in words."""
    base, of_width, of_steps = _RATES[config.name]
    rate, factors = base * (_BASE_CELLS / cells) ** of_width, [f"{base}"]
    if of_width:
        factors.append(f"({_BASE_CELLS} / {cells:,} cells)^{of_width}")
    if of_steps and steps > _BASE_STEPS:
        rate *= (_BASE_STEPS / steps) ** of_steps
        factors.append(f"({_BASE_STEPS} / {steps:,} steps)^{of_steps}")
    rule = " x ".join(factors) if of_width else "at every width"
    return float(f"{rate:.3g}"), f"{rule}, for {config.name}"


def resolve_auto(
    config: PretrainConfig, device: str, steps: int, begun: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """Replace each `auto` in the config by its value; return the values and their reasons by the settings' names.

    device: cuda or cpu. steps: of the whole run. begun: the settings in a checkpoint of the run, whose values are kept;
    None at its start.
    """
    found: dict[str, str] = {}
    if config.optimizer.lr == "auto":
        rate, why = rate_rule(config.optimizer, config.model.lstm_dim, steps)
        if begun is not None:
            rate, why = begun["optimizer"]["lr"], "as in the last checkpoint"
        config.optimizer.lr = rate
        found["optimizer.lr"] = f"{rate} ({why})"
    if config.train.precision == "auto":
        precision, why = suited_precision(config.model.lstm_dim, device)
        if begun is not None:
            precision, why = begun["train"]["precision"], "as in the last checkpoint"
        config.train.precision = precision
        found["train.precision"] = f"{precision} ({why})"
    return found
