"""The epoch order and the division into lanes: arithmetic only, no data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.lanes import TrainLanes, cold_starts, epoch_order, lane_groups, lane_share
from tests.data.corpora import many

shard_sizes = st.lists(st.integers(1, 6), min_size=1, max_size=8)
seeds = st.integers(0, 2**63)


def shard_of_chunk(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), sizes)


@many
@given(shard_sizes, seeds, st.integers(0, 10**6))
def test_an_epoch_reads_each_chunk_once_and_shard_by_shard(sizes: list[int], seed: int, epoch: int) -> None:
    chunk_shard = shard_of_chunk(sizes)
    order = epoch_order(chunk_shard, seed, epoch)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    shards = chunk_shard[order]
    assert np.count_nonzero(np.diff(shards)) == len(sizes) - 1
    assert (order == epoch_order(chunk_shard, seed, epoch)).all()


def test_over_many_epochs_every_order_of_shards_and_chunks_is_equally_frequent() -> None:
    chunk_shard = shard_of_chunk([1, 3, 2])
    orders = [epoch_order(chunk_shard, 7, epoch).tolist() for epoch in range(3600)]
    _, times = np.unique(orders, axis=0, return_counts=True)
    assert len(times) == 6 * 1 * 6 * 2  # 3! orders of the shards, then 1!, 3! and 2! orders of the chunks in them
    assert times.min() > 20 and times.max() < 90  # 50 of each are expected: four standard deviations and a little


def test_other_epochs_and_other_seeds_have_other_orders() -> None:
    chunk_shard = shard_of_chunk([8, 8])
    orders = [tuple(epoch_order(chunk_shard, seed, epoch)) for seed in range(20) for epoch in range(20)]
    assert len(set(orders)) == 400


def test_the_order_of_a_seed_never_changes() -> None:
    """A run resumed under another version of NumPy or of this program must continue in the same order."""
    assert epoch_order(shard_of_chunk([3, 1, 4]), 1, 0).tolist() == [4, 5, 7, 6, 1, 2, 0, 3]
    assert epoch_order(shard_of_chunk([3, 1, 4]), 1, 1).tolist() == [3, 0, 2, 1, 7, 4, 6, 5]


@many
@given(st.integers(1, 10**12), st.integers(1, 5000), st.integers(1, 100))
def test_an_epoch_leaves_out_a_tail_shorter_than_one_step(tokens: int, lanes: int, window: int) -> None:
    if tokens < lanes * window:
        with pytest.raises(ValueError, match="use fewer lanes or more text"):
            TrainLanes(tokens, lanes, window)
        return
    plan = TrainLanes(tokens, lanes, window)
    assert 0 <= tokens - lanes * plan.lane_tokens < lanes * window == plan.tokens_per_step
    assert plan.lane_tokens == plan.windows_per_epoch * window


@many
@given(st.integers(1, 50), st.integers(0, 10**9))
def test_steps_count_windows_and_then_epochs(windows: int, step: int) -> None:
    plan = TrainLanes(windows * 6 + 5, 3, 2)
    epoch, number = plan.locate(step)
    assert 0 <= number < windows and epoch * windows + number == step
    assert plan.locate(step + 1) == ((epoch, number + 1) if number + 1 < windows else (epoch + 1, 0))
    assert plan.steps(2, None) == 2 * windows and plan.steps(2, 5) == min(5, 2 * windows)


@many
@given(st.integers(1, 200), st.integers(1, 40))
def test_lanes_are_divided_over_ranks_in_order(lanes: int, ranks: int) -> None:
    shares = [lane_share(lanes, rank, ranks) for rank in range(ranks)]
    assert [lane for share in shares for lane in share] == list(range(lanes))
    assert max(map(len, shares)) - min(map(len, shares)) <= (lanes % ranks > 0)


@many
@given(st.integers(0, 50), st.integers(1, 8), st.integers(1, 8))
def test_the_lanes_of_a_rank_are_divided_into_equal_groups(first: int, groups: int, size: int) -> None:
    share = range(first, first + groups * size)
    cut = lane_groups(share, groups)
    assert [lane for group in cut for lane in group] == list(share)
    assert {len(group) for group in cut} == {size}


@many
@given(seeds, st.integers(0, 10**9), st.integers(1, 64), st.integers(0, 63), st.integers(1, 64))
def test_a_lane_starts_cold_whatever_other_lanes_a_rank_has(
    seed: int, step: int, num_lanes: int, first: int, length: int
) -> None:
    whole = cold_starts(seed, step, range(128), 0.3)
    assert (cold_starts(seed, step, range(first, first + length), 0.3) == whole[first : first + length]).all()
    assert (cold_starts(seed, step, range(num_lanes), 0.3) == whole[:num_lanes]).all()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_lanes_start_cold_as_often_as_is_asked_for(share: float) -> None:
    cold = np.stack([cold_starts(1, step, range(100), share) for step in range(1000)])
    assert abs(cold.mean() - share) < 5 * (share * (1 - share) / cold.size) ** 0.5 + 1e-12
    assert share in (0, 1) or (cold.any(0).all() and len({row.tobytes() for row in cold}) > 100)


def test_the_cold_starts_of_a_seed_never_change() -> None:
    assert np.flatnonzero(cold_starts(1, 2, range(40), 0.1)).tolist() == [1, 5, 6, 32, 33]
