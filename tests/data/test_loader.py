"""The real DataLoader: any number of workers, any start, gives the batches of the closed form."""

import pytest
import pytorch_lightning as pl
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from data_prep.lexicon import SPECIALS
from data_prep.shards import Dataset
from pipeline.config import DataConfig
from pipeline.data.datamodule import BiLMDataModule, choose_vocabulary
from pipeline.data.lanes import TrainLanes
from pipeline.data.windows import BatchMaker, TrainWindows, Vocabulary
from tests.data.corpora import few, same

LANES, WINDOW, SEED = 6, 5, 3


def maker(dataset: Dataset) -> BatchMaker:
    return BatchMaker(dataset.lexicon, Vocabulary(100), 50)


def lanes_of(dataset: Dataset) -> TrainLanes:
    return TrainLanes(dataset.splits["train"].num_tokens, LANES, WINDOW)


@pytest.fixture(scope="module")
def trainer() -> pl.Trainer:
    return pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)


def loader(dataset: Dataset, trainer: pl.Trainer, workers: int, start: int, stop: int, groups: int = 1) -> DataLoader:
    config = DataConfig(lanes=LANES, window=WINDOW, workers=workers)
    windows = TrainWindows(dataset.splits["train"], maker(dataset), lanes_of(dataset), SEED)
    module = BiLMDataModule(windows, config, groups, start, stop)
    module.trainer = trainer
    return module.train_dataloader()


@pytest.mark.parametrize("workers", [0, 1, 2])
@few
@given(start=st.integers(0, 200), count=st.integers(0, 12), groups=st.sampled_from([1, 2, 3]))
def test_a_loader_started_at_any_step_reads_on_exactly(
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


def test_an_epoch_of_real_batches_crosses_into_the_next(prepared: Dataset, trainer: pl.Trainer) -> None:
    windows = lanes_of(prepared).windows_per_epoch
    batches = [batch for (batch,) in loader(prepared, trainer, 2, windows - 2, windows + 2)]
    assert [batch.step for batch in batches] == [windows - 2, windows - 1, windows, windows + 1]
    assert [batch.resets_state for batch in batches] == [False, False, True, False]


def test_the_vocabulary_is_the_words_seen_often_enough_but_no_more_than_asked_for(prepared: Dataset) -> None:
    counts = prepared.lexicon.counts.tolist()
    for least in (1, 2, 5, 10**9):
        often = len(SPECIALS) + sum(count >= least for count in counts[3:])
        assert choose_vocabulary(prepared, DataConfig(vocab_min_count=least)) == often
        assert choose_vocabulary(prepared, DataConfig(vocab_min_count=least, vocab_size=20)) == min(20, often)
