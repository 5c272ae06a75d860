"""An order for each direction: each reads an epoch's text once, in its own order."""

import numpy as np
import pytest
import torch

from data_prep.dataset.shards import Dataset
from pipeline.data.combined_windows import BACKWARD_SEED, PerDirectionWindows
from pipeline.data.lanes import TrainLanes
from pipeline.data.vocabulary import Vocabulary
from pipeline.data.windows import BatchMaker, TrainWindows
from tests.data.corpora import read_spelled, same

LANES, WINDOW, SEED = range(6), 5, 3


def shared(dataset: Dataset, seed: int) -> TrainWindows:
    split = dataset.splits["train"]
    maker = BatchMaker(dataset.lexicon, Vocabulary(60), 50)
    return TrainWindows(split, maker, TrainLanes(split.num_tokens, len(LANES), WINDOW), seed)


@pytest.fixture
def parts(prepared: Dataset) -> tuple[TrainWindows, TrainWindows]:
    return shared(prepared, SEED), shared(prepared, SEED + BACKWARD_SEED)


def test_each_direction_reads_what_it_would_read_if_both_had_its_order(
    parts: tuple[TrainWindows, TrainWindows],
) -> None:
    separate, end = PerDirectionWindows(*parts), parts[0].lanes.windows_per_epoch
    differ = 0
    for step in [0, 1, end - 1, end, 2 * end + 3]:
        batch = separate.batch(step, LANES)
        alone = [part.batch(step, LANES) for part in parts]
        for d in range(2):
            assert (read_spelled(batch)[d] == read_spelled(alone[d])[d]).all()
            assert torch.equal(batch.targets[d], alone[d].targets[d])
        differ += int((batch.targets[1] != alone[0].targets[1]).sum())
        assert batch.resets_state == alone[0].resets_state
    assert differ > len(LANES) * WINDOW


def test_both_directions_read_an_epoch_once(parts: tuple[TrainWindows, TrainWindows]) -> None:
    separate, end = PerDirectionWindows(*parts), parts[0].lanes.windows_per_epoch
    targets = torch.stack([separate.batch(step, LANES).targets for step in range(end)])
    alone = torch.stack([parts[0].batch(step, LANES).targets for step in range(end)])
    for d in range(2):  # except for the tail that an epoch leaves out, which differs between the orders
        counts = [np.bincount(one[:, d].flatten().numpy(), minlength=60) for one in (targets, alone)]
        assert np.abs(counts[0] - counts[1]).sum() <= 2 * len(LANES) * WINDOW


def test_lanes_and_steps_can_be_read_in_any_order_and_grouping(parts: tuple[TrainWindows, TrainWindows]) -> None:
    whole = PerDirectionWindows(*parts).batch(7, LANES)
    again = PerDirectionWindows(*parts)
    again.batch(2, range(2, 4))
    half = again.batch(7, range(3, 6))
    assert (read_spelled(half) == read_spelled(whole)[:, :, 3:]).all()
    assert torch.equal(half.targets, whole.targets[:, :, 3:])
    assert same(again.batch(7, LANES), whole)
