"""Set up the Lightning Trainer and the process of a run.

The Trainer drives the loop; data order, checkpoints, signals and validation are this project's own.
"""

import contextlib
import ctypes
import logging
import os
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.strategies import DDPStrategy
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

from data_prep.orphans import end_with_parent
from data_prep.workers import usable_cores
from pipeline.config.schema import Precision, PretrainConfig, TrainConfig
from pipeline.model.backend.device import choose_device
from pipeline.train.cluster.torchrun_env import is_torchrun
from pipeline.train.step.collectives import exchange_timeout

_LAUNCHER = "ELMO_LAUNCHER_PID"  # in the environment of ranks that Lightning starts: the process of rank 0
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # options of mallopt(3)
_NEVER = -1
_UNWANTED_ADVICE = (
    "The number of training batches",
    "The 'train_dataloader' does not have many workers",
    ".*isinstance.treespec, LeafSpec.*",
    "The `srun` command is available on your system",
)


class Machine(Protocol):
    """Devices, nodes and threads, as the configs of trainings have them."""

    @property
    def accelerator(self) -> str: ...
    @property
    def devices(self) -> int: ...
    @property
    def nodes(self) -> int: ...
    @property
    def threads(self) -> int | None: ...


def build_trainer(config: PretrainConfig, wandb_run: Any, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Return a Trainer whose one epoch is the whole rest of the run. wandb_run: None but on rank 0."""
    logger = WandbLogger(experiment=wandb_run) if wandb_run is not None else False
    return _trainer(config.train, _strategy(config.train), callbacks, logger=logger)


def build_task_trainer(machine: Machine, precision: Precision, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Return such a Trainer for a supervised task."""
    return _trainer(machine, DDPStrategy(gradient_as_bucket_view=True), callbacks, precision=precision)


def _trainer(machine: Machine, strategy: DDPStrategy, callbacks: list[pl.Callback], **options: Any) -> pl.Trainer:
    """strategy: for more than one rank."""
    quieten_lightning()
    trainer = pl.Trainer(
        accelerator=choose_device(machine.accelerator),
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy=strategy if machine.devices * machine.nodes > 1 else "auto",
        max_epochs=1,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        log_every_n_steps=1 << 30,
        plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() and not is_torchrun() else None,
        **{"logger": False, **options},
    )
    _leave_signals_to_us(trainer)
    return trainer


def _strategy(config: TrainConfig) -> DDPStrategy:
    """Return DDP, which all-reduces dense gradients during backward; SoftmaxGradient exchanges the softmax's rows."""
    hook = bf16_compress_hook if config.exchanges_bfloat16 else None
    timeout = exchange_timeout(config.start_seconds, config.hang_seconds)
    return DDPStrategy(gradient_as_bucket_view=True, ddp_comm_hook=hook, timeout=timeout)


def global_rank(config: Machine) -> int:
    """Return this process's rank before Lightning sets anything up, from the launcher's environment variables."""
    quieten_lightning()
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if SLURMEnvironment.detect():
        return SLURMEnvironment().global_rank()
    return int(os.environ.get("NODE_RANK", 0)) * config.devices + int(os.environ.get("LOCAL_RANK", 0))


@contextlib.contextmanager
def launching_ranks() -> Iterator[None]:
    """Let ranks that Lightning starts inside know the process to end with; without it they would wait for ever.

    Raises KeyboardInterrupt for the SystemExit that Lightning makes of it.
    """
    os.environ[_LAUNCHER] = str(os.getpid())
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        del os.environ[_LAUNCHER]


def end_with_launcher() -> None:
    """End this process when rank 0 ends, if `launching_ranks` started it, or when torchrun ends, if that did."""
    if is_torchrun():
        end_with_parent(os.getppid())
    elif _LAUNCHER in os.environ:
        end_with_parent(int(os.environ[_LAUNCHER]))


def set_threads(config: Machine) -> None:
    """Give each process of a node its share of the cores."""
    torch.set_num_threads(config.threads or max(1, usable_cores() // config.devices))


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next step; without glibc do nothing. Call it for training on a CPU.

    glibc maps each block of more than 32 MiB anew and unmaps it when it is freed, whatever its thresholds are. A step
    frees hundreds of MiB in such blocks, and each page costs a fault when the next step touches it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def quieten_lightning() -> None:
    """Silence advice about parts of Lightning that this project does not use."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _UNWANTED_ADVICE:
        warnings.filterwarnings("ignore", message=message)


class _NoSignalHandlers:
    """Replaces Lightning's SIGTERM handler, which communicates with other ranks from inside and can hang them all."""

    received_sigterm = False

    def register_signal_handlers(self) -> None:
        pass

    def teardown(self) -> None:
        pass


def _leave_signals_to_us(trainer: pl.Trainer) -> None:
    # The Trainer has no option for either.
    trainer._signal_connector = _NoSignalHandlers()  # type: ignore[assignment]
    # Lightning would broadcast its own flag before every batch: one more synchronisation of all ranks in each step.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
