"""Dropout as a pure function: the right rate and scale, a mask for each place, the same for a lane in any batch."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.model.bilm import BiLM, DropoutKey
from pipeline.model.dropout import _hash32_, lane_dropout, mix32
from tests.model import tiny

SHAPE = (2, 20, 32, 64)
RATE = 0.1


def dropped(
    shape: tuple[int, ...] = SHAPE, rate: float = RATE, seed: int = 1, step: int = 0, site: int = 0, first_lane: int = 0
) -> Tensor:
    """Return 1.0 where a value is dropped, otherwise 0.0."""
    return (lane_dropout(torch.ones(shape), rate, mix32(seed, step, site), first_lane) == 0).float()


def assert_uncorrelated(one: Tensor, other: Tensor, what: str, rate: float = RATE) -> None:
    """Check that the product of two masks without their means is zero within five standard deviations."""
    product = ((one - rate) * (other - rate)).double().mean() / (rate * (1 - rate))
    assert abs(product) * math.sqrt(one.numel()) < 5, f"{what}: correlation {product:.4f}"


def test_the_hash_is_lowbias32() -> None:
    values = np.concatenate([np.arange(2**16), np.random.default_rng(0).integers(0, 2**32, 2**16)]).astype(np.uint32)
    x = values.copy()
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x7FEB352D)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    ours = _hash32_(torch.from_numpy(values.view(np.int32).copy()))
    assert np.array_equal(ours.numpy().view(np.uint32), x)


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_the_rate_is_right_at_every_column_step_lane_and_direction(rate: float) -> None:
    mask = dropped(rate=rate)
    for axes in itertools.chain(itertools.combinations(range(4), 3), [(0, 1, 2, 3)]):
        rates = mask.double().mean(axes)
        deviation = math.sqrt(rate * (1 - rate) * rates.numel() / mask.numel())
        assert (rates - rate).abs().max() < 4.5 * deviation
    for half in (mask[..., 0::2], mask[..., 1::2]):
        assert abs(half.double().mean() - rate) < 4.5 * math.sqrt(rate * (1 - rate) / half.numel())


def test_values_that_are_kept_are_scaled_so_that_the_mean_is_unchanged() -> None:
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)) + 1.0
    for rate in (0.1, 0.5):
        y = lane_dropout(x, rate, 5, 0)
        kept = y != 0
        torch.testing.assert_close(y[kept], x[kept] / (1 - rate))
        noise = 4.5 * math.sqrt(rate / (1 - rate) / x.numel())
        assert y.mean().item() == pytest.approx(x.mean().item(), rel=noise)


def test_the_gradient_equals_the_scaled_mask() -> None:
    x = torch.ones(SHAPE, requires_grad=True)
    y = lane_dropout(x, 0.3, 5, 0)
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y)


def test_nothing_is_dropped_at_rate_zero_and_nearly_everything_near_one() -> None:
    x = torch.ones(SHAPE)
    assert torch.equal(lane_dropout(x, 0.0, 5, 0), x)
    assert (lane_dropout(x, 0.9999999, 5, 0) == 0).double().mean() > 0.999


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("distance", [1, 2, 3, 4])
def test_masks_do_not_correlate_along_any_axis(axis: int, distance: int) -> None:
    if distance >= SHAPE[axis]:
        return
    mask = dropped()
    length = SHAPE[axis] - distance
    assert_uncorrelated(mask.narrow(axis, 0, length), mask.narrow(axis, distance, length), f"axis {axis}")
    assert not torch.equal(mask.narrow(axis, 0, length), mask.narrow(axis, distance, length))


def test_the_two_values_that_share_a_hash_are_dropped_independently() -> None:
    mask = dropped(shape=(2, 20, 64, 512))
    first, second = mask[..., 0::2], mask[..., 1::2]
    assert_uncorrelated(first, second, "pairs")
    both = (first * second).double().mean().item()
    assert both == pytest.approx(RATE**2, abs=5 * RATE / math.sqrt(first.numel()))


def test_masks_of_all_steps_sites_and_seeds_do_not_correlate() -> None:
    keys = [(seed, step, site) for seed in (1, 2) for step in (0, 1, 2, 1000) for site in (0, 1, 2)]
    masks = [dropped(seed=seed, step=step, site=site) for seed, step, site in keys]
    for (key, mask), (other_key, other) in itertools.combinations(zip(keys, masks, strict=True), 2):
        assert_uncorrelated(mask, other, f"{key} and {other_key}")
        for axis in range(4):
            assert_uncorrelated(mask, other.roll(1, axis), f"{key} and {other_key} moved along {axis}")


def test_the_number_of_drops_at_one_place_is_binomial() -> None:
    """The number of drops at one place in 2,000 steps is binomial: neither too regular nor too irregular."""
    counts = torch.stack([dropped(shape=(2, 2, 4, 32), step=step) for step in range(2000)]).sum(0)
    z = (counts - 2000 * RATE) / math.sqrt(2000 * RATE * (1 - RATE))
    assert 0.85 < z.std() < 1.15 and z.abs().max() < 5


def test_keys_of_steps_sites_and_seeds_differ() -> None:
    keys = [mix32(seed, step, site) for seed in range(10) for step in range(500) for site in range(4)]
    assert len(set(keys)) >= len(keys) - 2  # 20,000 of 2**32: one collision or none
    assert min(keys) >= -(2**31) and max(keys) < 2**31 and abs(np.mean(np.array(keys) < 0) - 0.5) < 0.02
    assert mix32(1, 2) != mix32(2, 1) and mix32(2**40, 1) != mix32(0, 1)


@pytest.mark.parametrize("width", [1, 2, 7, 64])
@pytest.mark.parametrize("first_lane", [0, 5, 2**22, 2**31 - 3])
def test_a_lane_drops_the_same_values_in_any_batch(first_lane: int, width: int) -> None:
    whole = dropped((2, 6, 8, width), rate=0.5, first_lane=first_lane)
    for start, lanes in ((0, 2), (2, 1), (3, 5)):
        part = dropped((2, 6, lanes, width), rate=0.5, first_lane=first_lane + start)
        assert torch.equal(part, whole[:, :, start : start + lanes])


def test_lanes_whose_counter_passes_32_bits_are_dropped_at_the_same_rate() -> None:
    """With 20 steps and 512 values, the counter becomes negative at lane 209,715 and zero at lane 419,430."""
    for first_lane in (209_700, 419_415, 2**31 - 16):
        mask = dropped((2, 20, 32, 512), first_lane=first_lane)
        assert mask.double().mean().item() == pytest.approx(RATE, abs=4.5 * math.sqrt(RATE / mask.numel()))
        for axis in range(4):
            length = mask.shape[axis] - 1
            assert_uncorrelated(mask.narrow(axis, 0, length), mask.narrow(axis, 1, length), f"axis {axis}")


def test_the_mask_does_not_depend_on_the_precision() -> None:
    masks = [lane_dropout(torch.ones(SHAPE, dtype=d), 0.3, 5, 0) == 0 for d in (torch.float32, torch.bfloat16)]
    assert torch.equal(*masks)


def test_steps_seeds_and_lanes_of_the_model_have_different_masks() -> None:
    bilm = tiny.bilm(tiny.config(dropout=0.5))
    window = tiny.window(tiny.random_words(5, 4))
    keys = [DropoutKey(1, 1, 0), DropoutKey(1, 2, 0), DropoutKey(2, 1, 0), DropoutKey(1, 1, 4)]
    tops = [_top(bilm, window, key) for key in [*keys, keys[0]]]
    assert torch.equal(tops[0], tops[-1])
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(tops[:-1], 2))


def _top(bilm: BiLM, window: object, key: DropoutKey) -> Tensor:
    with torch.no_grad():
        top: Tensor = bilm(window, bilm.initial_states(4), key)[0][-1]
    return top
