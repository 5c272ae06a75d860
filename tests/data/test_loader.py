"""The real DataLoader gives the batches of the closed form, with any number of workers and from any step."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import pytest
import pytorch_lightning as pl
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data_prep.dataset.files import DataError
from data_prep.dataset.lexicon import SPECIALS
from data_prep.dataset.shards import Dataset
from pipeline.config.schema import DataConfig
from pipeline.data.datamodule import BiLMDataModule
from pipeline.data.lanes import TrainLanes
from pipeline.data.vocabulary import Vocabulary, choose_vocabulary
from pipeline.data.windows import BatchMaker, TrainWindows
from tests.data.corpora import few, same

LANES, WINDOW, SEED = 6, 5, 3


def maker(dataset: Dataset) -> BatchMaker:
    return BatchMaker(dataset.lexicon, Vocabulary(100), 50)


def lanes_of(dataset: Dataset) -> TrainLanes:
    return TrainLanes(dataset.splits["train"].num_tokens, LANES, WINDOW)


@pytest.fixture(scope="module")
def trainer() -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)


def loader(
    dataset: Dataset, trainer: pl.Trainer, workers: int, start: int, stop: int, groups: int = 1, method: str = "fork"
) -> DataLoader:
    config = DataConfig(lanes=LANES, window=WINDOW, workers=workers)
    windows = TrainWindows(dataset.splits["train"], maker(dataset), lanes_of(dataset), SEED)
    module = BiLMDataModule(windows, config, groups, range(start, stop), start_method=method)
    module.trainer = trainer
    return module.train_dataloader()


@pytest.mark.parametrize("workers", [0, 1, 2])
@few
@given(start=st.integers(0, 200), count=st.integers(0, 12), groups=st.sampled_from([1, 2, 3]))
def test_a_loader_that_starts_at_any_step_gives_the_batches_from_that_step(
    prepared: Dataset, trainer: pl.Trainer, workers: int, start: int, count: int, groups: int
) -> None:
    batches = loader(prepared, trainer, workers, start, start + count, groups)
    fresh = TrainWindows(prepared.splits["train"], maker(prepared), lanes_of(prepared), SEED)
    size = LANES // groups
    found = list(batches)
    assert len(found) == len(batches) == count
    for step, of_step in zip(range(start, start + count), found, strict=True):
        expected = [fresh.batch(step, range(first, first + size)) for first in range(0, LANES, size)]
        assert all(same(a, b) for a, b in zip(of_step, expected, strict=True))


def test_the_batches_of_an_epoch_are_followed_by_those_of_the_next(prepared: Dataset, trainer: pl.Trainer) -> None:
    windows = lanes_of(prepared).windows_per_epoch
    batches = [batch for (batch,) in loader(prepared, trainer, 2, windows - 2, windows + 2)]
    assert [batch.step for batch in batches] == [windows - 2, windows - 1, windows, windows + 1]
    assert [batch.resets_state for batch in batches] == [False, False, True, False]


@pytest.mark.slow
def test_spawned_processes_give_the_same_batches_as_forked_ones(prepared: Dataset, trainer: pl.Trainer) -> None:
    spawned, forked = (list(loader(prepared, trainer, 2, 3, 40, 2, method)) for method in ("spawn", "fork"))
    assert len(spawned) == 37 and all(len(groups) == 2 for groups in spawned)
    pairs = [pair for steps in zip(spawned, forked, strict=True) for pair in zip(*steps, strict=True)]
    assert all(same(a, b) for a, b in pairs)


@dataclass
class Damaged:
    """Windows whose step 3 cannot be read."""

    lanes: TrainLanes

    def batch(self, step: int, lanes: range) -> list[int]:
        if step == 3:
            raise DataError("a chunk ends inside a sentence")
        return [step, *lanes]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_damaged_data_gives_the_same_message_from_every_process(
    prepared: Dataset, trainer: pl.Trainer, workers: int
) -> None:
    config = DataConfig(lanes=LANES, window=WINDOW, workers=workers)
    module = BiLMDataModule(Damaged(lanes_of(prepared)), config, 1, range(9))  # type: ignore[arg-type]
    module.trainer = trainer
    batches = iter(module.train_dataloader())
    assert [next(batches)[0][0] for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"^a chunk ends inside a sentence$"):
        next(batches)


@contextmanager
def loader_processes(method: str, has_prctl: bool) -> Iterator[tuple["subprocess.Popen[str]", list[psutil.Process]]]:
    """Start a training process and its loader processes; kill the training process at the end in any case."""
    code = f"from tests.data.waiting_loader import take_one_batch_and_sleep as run; run({method!r}, {has_prctl})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            yield parent, [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        finally:
            parent.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "has_prctl"), [("fork", True), ("fork", False), ("spawn", True)])
def test_loader_processes_end_when_their_parent_is_killed(method: str, has_prctl: bool) -> None:
    """Without prctl, as on a Mac, the loader processes check for themselves whether their parent is alive."""
    with loader_processes(method, has_prctl) as (parent, processes):
        time.sleep(0.5)  # until the pipe is full
        parent.kill()
    assert len(processes) == 2
    assert psutil.wait_procs(processes, timeout=30)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_loader_processes_ignore_a_sigterm_that_is_not_from_their_parent(method: str) -> None:
    with loader_processes(method, True) as (_, processes):
        for process in processes:
            process.terminate()
        assert len(processes) == 2
        assert psutil.wait_procs(processes, timeout=1)[0] == []


def test_the_vocabulary_holds_the_frequent_words_up_to_the_given_size(prepared: Dataset) -> None:
    counts = prepared.lexicon.counts.tolist()
    for least in (1, 2, 5, 10**9):
        often = len(SPECIALS) + sum(count >= least for count in counts[3:])
        assert choose_vocabulary(prepared, DataConfig(vocab_min_count=least)) == often
        assert choose_vocabulary(prepared, DataConfig(vocab_min_count=least, vocab_size=20)) == min(20, often)
