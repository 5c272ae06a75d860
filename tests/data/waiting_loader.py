"""A process that takes one batch of its loader processes and then sleeps, so that the loader processes wait."""

import multiprocessing
import time

import pytorch_lightning as pl

import data_prep.orphans
from pipeline.config.schema import DataConfig
from pipeline.data.datamodule import BiLMDataModule
from pipeline.data.lanes import TrainLanes

LANES, WINDOW = 6, 5


class Large:
    """Windows of 1 MiB each, which is more than a pipe holds."""

    lanes = TrainLanes(10**6, LANES, WINDOW)

    def batch(self, step: int, lanes: range) -> bytes:
        return bytes(1 << 20)


def take_one_batch_and_sleep(method: str, has_prctl: bool) -> None:
    """Print the ids of the loader processes, then sleep while they wait for room in a full pipe."""
    if not has_prctl:
        data_prep.orphans._kernel_ends_orphans = lambda: False
    module = BiLMDataModule(Large(), DataConfig(lanes=LANES, window=WINDOW, workers=2), 1, range(1000), None, method)  # type: ignore[arg-type]
    module.trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    batches = iter(module.train_dataloader())
    next(batches)
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    time.sleep(1000)
