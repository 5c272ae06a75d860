"""What a training of a task knows of itself, and what its checkpoint holds."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from data_prep.dataset.files import atomic_file
from pipeline.config.schema import ConfigError
from pipeline.model.formats.safe_pickle import load_tensors, reason_of
from pipeline.tasks.training.settings import describe_changes


@dataclass
class TaskState:
    """step: optimizer steps done. best: the highest score on dev, reached after `best_step` steps.

    waited: evaluations since then. waited_for_rate: evaluations since then or since the rate was last lowered.
    rate: factor of the learning rate. seconds: of training, of all starts together.
    """

    step: int = 0
    best: float = -math.inf
    best_step: int = 0
    waited: int = 0
    waited_for_rate: int = 0
    rate: float = 1.0
    seconds: float = 0.0

    def is_over(self, total: int, patience: int | None) -> bool:
        """Return whether no step follows, with `total` steps at most and this patience, which each start may change."""
        return self.step >= total or (patience is not None and self.waited >= patience)

    def record(self, score: float) -> bool:
        """Take note of a score on dev; return whether it is the best so far."""
        is_best = score > self.best
        if is_best:
            self.best, self.best_step, self.waited, self.waited_for_rate = score, self.step, 0, 0
        else:
            self.waited, self.waited_for_rate = self.waited + 1, self.waited_for_rate + 1
        return is_best


class MovingAverage:
    """The exponential moving average of a network's trained weights (Clark and Gardner 2018 evaluate with it)."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._weights = [p for p in network.parameters() if p.requires_grad]
        self.values = [p.detach().clone() for p in self._weights]
        self._average = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        self._average(self.values, [p.detach() for p in self._weights], 1)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average; a second call takes it back."""
        for weight, value in zip(self._weights, self.values, strict=True):
            kept = weight.clone()
            weight.copy_(value)
            value.copy_(kept)


def save_state(path: Path, state: TaskState, identity: dict[str, Any], content: dict[str, Any]) -> None:
    """Write a checkpoint durably. content: state dicts of the network, the optimizer and the average."""
    with atomic_file(path) as file:
        torch.save({"state": asdict(state), "identity": identity, **content}, file)


def load_state(path: Path, identity: dict[str, Any]) -> tuple[TaskState, dict[str, Any]] | None:
    """Return the checkpoint at `path`, None if there is none.

    Raises ConfigError if it is damaged, or if its run had other settings.
    """
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = load_tensors(path)
        state, before = TaskState(**content["state"]), dict(content["identity"])
    except Exception as error:  # torch raises what its unpickler raises
        raise ConfigError(f"{path} is damaged ({reason_of(error)}); delete it to train again from the start") from None
    if changes := describe_changes(before, identity):
        raise ConfigError(
            f"{path.parent} holds a training with other settings ({changes}); give those, or another run.dir"
        )
    return state, content
