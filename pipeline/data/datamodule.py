"""Loaders of training and evaluation batches, which can start at any step."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader, Dataset

from data_prep.dataset.files import DataError
from data_prep.dataset.shards import Dataset as TokenDataset
from data_prep.dataset.shards import Split
from data_prep.orphans import end_with_parent
from pipeline.config.schema import ConfigError, DataConfig, EvaluateConfig
from pipeline.data.lanes import EvaluationLanes, lane_groups, lane_share
from pipeline.data.windows import Batch, BatchMaker, EvaluationWindows, Windows

# Set explicitly, because Python's default changes. fork is fastest, but macOS libraries do not support it.
START_METHOD = "fork" if sys.platform == "linux" else "spawn"
_KNOWS_SENDERS = hasattr(signal, "sigwaitinfo")  # whether a process can find out who sent a signal; not on macOS


def held_out_split(dataset: TokenDataset, name: str = "heldout") -> Split:
    if name not in dataset.splits or dataset.splits[name].num_tokens == 0:
        raise ConfigError(
            f"{dataset.location} has no split {name!r} to score; it has {sorted(dataset.splits)}: prepare one with "
            "heldout= or heldout_input="
        )
    return dataset.splits[name]


def evaluation_windows(
    split: Split, maker: BatchMaker, config: EvaluateConfig, max_tokens: int | None = None
) -> EvaluationWindows:
    """Return windows over a split, or over about its first max_tokens tokens, with at most one lane per token."""
    tokens = split.num_tokens if max_tokens is None else min(max_tokens, split.num_tokens)
    return EvaluationWindows(split, maker, EvaluationLanes(tokens, min(config.lanes, tokens), config.window))


@dataclass
class StepBatches(Dataset[Any]):
    """Map-style dataset for any worker: item i is step i, a batch for each lane group.

    prepare: applied to a step's batches in the worker.
    """

    windows: Windows
    groups: list[range]
    prepare: Callable[[list[Batch]], Any] | None = None

    def __getitem__(self, step: int) -> Any:
        """Return the batches, or the DataError or ConfigError that reading them raised.

        If raised here, the error would reach the training process as the text of a traceback.
        """
        try:
            batches = [self.windows.batch(step, lanes) for lanes in self.groups]
            return batches if self.prepare is None else self.prepare(batches)
        except (DataError, ConfigError) as error:
            return error


class _Loader(DataLoader[Any]):
    """A DataLoader whose processes end with their parent, but survive a SIGTERM sent to all processes of a job.

    The parent needs its loader processes until its step ends. They start with SIGTERM blocked, because torch starts
    threads in them before it calls worker_init_fn, and any thread that receives the signal ends the process, and then
    the parent.
    """

    def __iter__(self) -> Any:
        context = self.multiprocessing_context
        if context is None or not _KNOWS_SENDERS:
            return _unwrapped(super().__iter__())
        if context.get_start_method() != "fork":
            resource_tracker.ensure_running()  # if it were started below, it would unblock the signal
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            return _unwrapped(super().__iter__())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _unwrapped(batches: Iterator[Any]) -> Iterator[Any]:
    """Yield the batches; raise the first item that is an error of the user's data."""
    for batch in batches:
        if isinstance(batch, ValueError):
            raise batch
        yield batch


def is_killed_worker(error: BaseException) -> bool:
    """Return whether an error of a training means that a loader process ended; torch may report this at any moment."""
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, RuntimeError) and str(chain).startswith("DataLoader worker (pid"):
            return True
        chain = chain.__cause__ or chain.__context__
    return False


def _begin_worker(worker: int) -> None:
    end_with_parent()
    if _KNOWS_SENDERS:
        threading.Thread(target=_end_on_signal_of_parent, daemon=True).start()


def _end_on_signal_of_parent() -> None:
    """End this process on a SIGTERM from its parent; ignore SIGTERM from other senders."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


class BiLMDataModule(pl.LightningDataModule):
    """Training batches from `start_step` on. A batch is a function of its step, so there is no loader state to save."""

    def __init__(
        self,
        windows: Windows,
        config: DataConfig,
        lane_groups: int,
        steps: range,
        prepare: Callable[[list[Batch]], Any] | None = None,
        start_method: str = START_METHOD,
    ) -> None:
        super().__init__()
        self._windows, self._config, self._lane_groups, self._steps = windows, config, lane_groups, steps
        self._prepare, self._start_method = prepare, start_method

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        share = lane_share(self._config.lanes, self.trainer.global_rank, self.trainer.world_size)
        groups = lane_groups(share, self._lane_groups)
        workers = self._config.workers
        return _Loader(
            StepBatches(self._windows, groups, self._prepare),
            sampler=self._steps,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            persistent_workers=False,
            multiprocessing_context=self._start_method if workers else None,
            worker_init_fn=_begin_worker,
        )
