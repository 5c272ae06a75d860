"""The fast path in a training of several ranks."""

from contextlib import ExitStack

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from pipeline.model.backend.device import MODES, using
from pipeline.train.fast_path.trust import fast_path
from pipeline.train.step.collectives import all_gather


class FastPath(Callback):
    """Train inside a `with` block in the mode that the GPU may use; as a callback, in the same mode on all ranks.

    The kernels round differently: replicas of the weights would drift apart if ranks computed in different modes.
    """

    def __init__(self, device: str, rank: int, devices: int) -> None:
        """device: cuda or cpu. devices: processes of this node."""
        self._place, self._stack, self._mode = (device, rank, devices), ExitStack(), MODES[0]

    def __enter__(self) -> "FastPath":
        self._mode = self._stack.enter_context(fast_path(*self._place))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._place[0] == "cuda":
            self._stack.enter_context(using(slowest_mode(self._mode, pl_module.device)))


def slowest_mode(mode: str, device: torch.device) -> str:
    """Return the mode that all ranks can use, given this rank's. Every rank must call it."""
    return MODES[max(all_gather(torch.tensor([MODES.index(mode)], device=device)).tolist())]
