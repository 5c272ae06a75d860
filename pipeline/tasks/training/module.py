"""A task network as a LightningModule: one optimizer step, and predictions."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from pipeline.config.task_networks import TaskTraining
from pipeline.tasks.layer_encoder import LayerEncoder
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.sequences import Batch
from pipeline.tasks.training.state import MovingAverage, TaskState


class TaskModule(pl.LightningModule):
    """Train `network`, of which `state` says how far it is.

    bilm: reads ELMo's layers inside the step, where the biLM is trained with the task or its layers are not kept; None
    where batches come with their layers.
    """

    def __init__(
        self,
        network: TaskNetwork[Any, Any, Any],
        training: TaskTraining,
        state: TaskState,
        seed: int,
        bilm: LayerEncoder | None = None,
    ) -> None:
        super().__init__()
        self.network, self.bilm, self.training_config, self.state, self._seed = network, bilm, training, state, seed
        self.average = MovingAverage(self, training.ema) if training.ema is not None else None
        self._optimizer_state: dict[str, Any] | None = None

    def training_step(self, batch: tuple[Batch, float], number: int) -> Tensor:
        """Return the loss of this rank's examples, weighted so that the mean over ranks is that of the whole step."""
        examples, weight = batch
        return self.network.loss(self._with_layers(examples)) * weight + self.network.placement.l2_penalty()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout by step and rank, so that a resumed training draws what an uninterrupted one draws."""
        seeds = np.random.SeedSequence([self._seed, self.state.step, self.global_rank])
        torch.manual_seed(int(seeds.generate_state(1)[0]))

    def transfer_batch_to_device(
        self, batch: tuple[Batch, float], device: torch.device, dataloader_idx: int
    ) -> tuple[Batch, float]:
        return batch[0].to(device), batch[1]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        config, weights = self.training_config, self._trained()
        optimizer: torch.optim.Optimizer
        if config.optimizer == "adam":
            optimizer = torch.optim.Adam(weights, config.learning_rate, eps=config.eps)
        elif config.optimizer == "sgd":
            optimizer = torch.optim.SGD(weights, config.learning_rate)
        else:
            optimizer = torch.optim.Adadelta(weights, config.learning_rate, rho=config.rho, eps=config.eps)
        if self._optimizer_state is not None:
            optimizer.load_state_dict(self._optimizer_state)
        return optimizer

    def configure_gradient_clipping(self, optimizer: Any, *_: Any, **__: Any) -> None:
        config = self.training_config
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._trained(), config.clip_norm)
        if config.clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._trained(), config.clip_value)

    def optimizer_step(self, *arguments: Any, **named: Any) -> None:
        super().optimizer_step(*arguments, **named)
        self.state.step += 1
        if self.average is not None:
            self.average.update()

    @property
    def learning_rate(self) -> float:
        """The rate of the next step: schedule "steps" follows its number, "plateau" the factor in `state`."""
        config, factor = self.training_config, self.state.rate
        if config.schedule == "steps":
            factor = config.decay ** (self.state.step // config.decay_every_steps)
        return config.learning_rate * factor

    def is_over(self, total: int) -> bool:
        """Return whether no step follows. total: the number of the last step."""
        lowest = self.training_config.min_learning_rate
        is_slow = lowest is not None and self.learning_rate < lowest
        return is_slow or self.state.is_over(total, self.training_config.patience)

    def is_finite(self) -> bool:
        """Return whether no trained weight is infinite or NaN."""
        return all(bool(weight.isfinite().all()) for weight in self._trained())

    def set_rate(self) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Use the weights to evaluate with, in evaluation mode."""
        self.eval()
        if self.average is not None:
            self.average.swap()
        try:
            with torch.no_grad():
                yield
        finally:
            if self.average is not None:
                self.average.swap()
            self.train()

    def predict(self, batch: Batch) -> list[Any]:
        """Return one prediction an example."""
        return self.network.predict(self._with_layers(batch.to(self.device)))

    def weights(self) -> dict[str, Tensor]:
        """Return all weights of the network, and of the biLM if it is trained with the task, on the CPU."""
        state = self.state_dict()
        is_saved = self.bilm is not None and self.bilm.is_trained
        names = [name for name in state if name.startswith("network.") or is_saved]
        return {name: state[name].detach().cpu().contiguous() for name in names}

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        missing, unknown = self.load_state_dict(weights, strict=False)
        assert not unknown and all(name.startswith("bilm.") for name in missing), (missing, unknown)

    def content(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides `state`."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, torch.optim.Optimizer)
        average = [] if self.average is None else [value.cpu() for value in self.average.values]
        return {"weights": self.weights(), "optimizer": optimizer.state_dict(), "average": average}

    def restore(self, content: dict[str, Any]) -> None:
        """Take over the content of a checkpoint, before the training starts."""
        self.load_weights(content["weights"])
        self._optimizer_state = content["optimizer"]
        for value, saved in zip(self.average.values if self.average else [], content["average"], strict=True):
            value.copy_(saved)

    def mix_metrics(self) -> dict[str, float]:
        """Return the weight of each layer and gamma, by place."""
        learned = self.network.placement.learned()
        weights = {f"elmo/{place}_weight_{n}": w for place, (ws, _) in learned.items() for n, w in enumerate(ws)}
        return weights | {f"elmo/{place}_gamma": gamma for place, (_, gamma) in learned.items()}

    def _with_layers(self, batch: Batch) -> Batch:
        return batch if self.bilm is None else batch.with_elmo(self.bilm)

    def _trained(self) -> list[torch.nn.Parameter]:
        return [weight for weight in self.parameters() if weight.requires_grad]
