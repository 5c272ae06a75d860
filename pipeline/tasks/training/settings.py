"""The settings of a training: which of them must stay the same from start to start, and what has changed."""

from typing import Any

from pipeline.config.load import flat
from pipeline.config.schema import to_dict

_WITHOUT_EFFECT_ON_SCORES = (
    "run.dir",
    "run.name",
    "wandb",
    "training.accelerator",
    "training.devices",
    "training.nodes",
    "training.threads",
    "training.workers",
    "elmo.cache_dir",
)
_END_OF_TRAINING = ("training.max_epochs", "training.patience", "training.min_learning_rate")


def settings_of_scores(config: Any) -> dict[str, Any]:
    """Return all settings that scores depend on, by their full names."""
    every = flat(to_dict(config))
    return {name: value for name, value in every.items() if not name.startswith(_WITHOUT_EFFECT_ON_SCORES)}


def settings_of_steps(config: Any) -> dict[str, Any]:
    """Return the settings that a resumed training must share: those of scores, without when the training ends."""
    return {name: value for name, value in settings_of_scores(config).items() if name not in _END_OF_TRAINING}


def describe_changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what differs, as text; empty where nothing does."""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return "; ".join(f"{name}: {before.get(name)} there, {now.get(name)} now" for name in names)[:300]
