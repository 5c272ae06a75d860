"""Evaluation windows score every token exactly once, for any number of lanes and ranks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dataset.shards import Dataset
from pipeline.config.schema import ConfigError, EvaluateConfig
from pipeline.data.datamodule import evaluation_windows, held_out_split
from pipeline.data.lanes import EvaluationLanes, lane_share
from pipeline.data.vocabulary import Vocabulary
from pipeline.data.windows import BatchMaker, EvaluationWindows
from tests.data import plain
from tests.data.corpora import Corpus, corpora, many, read_spelled, some


@many
@given(st.integers(1, 500), st.integers(1, 600), st.integers(1, 60))
def test_bounds_cover_every_position_once_and_in_order(tokens: int, num_lanes: int, window: int) -> None:
    lanes = EvaluationLanes(tokens, num_lanes, window)
    assert 0 <= num_lanes * lanes.lane_tokens - tokens < num_lanes  # lanes are no longer than they must be
    covered: list[int] = []
    for lane in range(num_lanes):
        for number in range(lanes.num_windows):
            start, stop = lanes.bounds(lane, number)
            assert 0 <= start <= stop <= tokens and stop - start <= window
            covered += range(start, stop)
    assert covered == list(range(tokens))


@some
@given(corpora(most_shards=2), st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
def test_windows_hold_every_token_once_in_each_direction_for_any_lanes_and_ranks(
    corpus: Corpus, num_lanes: int, window: int, ranks: int, at_once: int
) -> None:
    both = plain.in_order(plain.text_of(corpus), np.arange(len(corpus.chunks)))
    words = corpus.lexicon().words()
    rows = np.array([plain.spelled_id(word, words, 12) for word in range(len(words))])
    lanes = EvaluationLanes(corpus.num_tokens, num_lanes, window)
    windows = EvaluationWindows(corpus, corpus.maker(1 << 30), lanes)
    read: list[list[np.ndarray]] = [[], []]
    scored: list[list[int]] = [[], []]
    for rank in range(ranks):
        share = lane_share(num_lanes, rank, ranks)
        for first in range(share.start, share.stop, at_once):
            group = range(first, min(first + at_once, share.stop))
            batches = [windows.batch(number, group) for number in range(lanes.num_windows)]
            for number, batch in enumerate(batches):
                assert (batch.step, batch.first_lane, batch.resets_state) == (number, first, number == 0)
                assert batch.mask is not None and batch.mask[0].equal(batch.mask[1])
                assert batch.targets.shape == batch.word_index.shape == batch.mask.shape == (2, window, len(group))
            # the order of the text: all windows of the first lane, then of the next
            mask = np.concatenate([batch.mask for batch in batches], axis=1).swapaxes(1, 2)
            targets = np.concatenate([batch.targets for batch in batches], axis=1).swapaxes(1, 2)
            inputs = np.concatenate([read_spelled(batch) for batch in batches], axis=1).swapaxes(1, 2)
            for direction in (0, 1):
                scored[direction] += targets[direction][mask[direction]].tolist()
                read[direction].append(inputs[direction][mask[direction]])
    for direction, (inputs, targets) in enumerate(both):
        assert scored[direction] == targets
        assert (np.concatenate(read[direction]) == rows[inputs]).all()


def test_a_limit_of_tokens_limits_tokens_and_lanes(prepared: Dataset) -> None:
    split = held_out_split(prepared)
    maker = BatchMaker(prepared.lexicon, Vocabulary(100), 50)
    for lanes, limit, expected in ((4, None, split.num_tokens), (4, 33, 33), (50, 7, 7), (3, 10**9, split.num_tokens)):
        windows = evaluation_windows(split, maker, EvaluateConfig(lanes=lanes, window=5), limit)
        batches = [windows.batch(w, range(windows.lanes.num_lanes)) for w in range(windows.lanes.num_windows)]
        assert windows.lanes.num_lanes == min(lanes, expected)
        assert sum(int(batch.mask[0].sum()) for batch in batches if batch.mask is not None) == expected


def test_a_dataset_without_held_out_text_says_how_to_get_some(prepared: Dataset) -> None:
    try:
        held_out_split(prepared, "valid")
    except ConfigError as error:
        assert "valid" in str(error) and "heldout" in str(error)
    else:
        raise AssertionError("no error")
