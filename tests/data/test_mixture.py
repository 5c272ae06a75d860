"""Two texts in one batch: each has its number of lanes and its own order, for any number of ranks and lane groups."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset
from data_prep.prepare import prepare
from pipeline.config.schema import ConfigError
from pipeline.data.combined_windows import MixedWindows, general_lanes
from pipeline.data.lanes import TrainLanes, lane_groups, lane_share
from pipeline.data.vocabulary import Vocabulary, vocabulary_map
from pipeline.data.windows import Batch, BatchMaker, TrainWindows
from tests.corpora import write_corpus
from tests.data.corpora import read_spelled, same

LANES, GENERAL, WINDOW, SEED = 8, 2, 5, 3


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Return a second, shorter text with a lexicon of its own."""
    folder: Path = tmp_path_factory.mktemp("other")
    paths = write_corpus(folder / "corpus", files=1, sentences=25)
    prepare(paths, folder / "dataset", workers=1, shard_tokens=500, chunk_tokens=60, show_progress=False)
    return open_dataset(folder / "dataset")


def windows(dataset: Dataset, lanes: int, words: list[str]) -> TrainWindows:
    split = dataset.splits["train"]
    maker = BatchMaker(dataset.lexicon, Vocabulary(len(words), vocabulary_map(dataset.lexicon, words)), 50)
    return TrainWindows(split, maker, TrainLanes(split.num_tokens, lanes, WINDOW), SEED)


@pytest.fixture
def parts(prepared: Dataset, other: Dataset) -> tuple[TrainWindows, TrainWindows]:
    words = prepared.lexicon.words(0, 60)
    return windows(prepared, LANES - GENERAL, words), windows(other, GENERAL, words)


def columns(batch: Batch, lanes: slice) -> tuple[np.ndarray, torch.Tensor]:
    return read_spelled(batch)[:, :, lanes], batch.targets[:, :, lanes]


def test_each_lane_reads_what_it_would_read_if_its_text_were_alone(parts: tuple[TrainWindows, TrainWindows]) -> None:
    mixed, (domain, general) = MixedWindows(*parts), parts
    ends = {part.lanes.windows_per_epoch for part in parts}
    assert len(ends) == 2
    for step in [0, 1, *(end + k for end in ends for k in (-1, 0)), 97]:
        batch = mixed.batch(step, range(LANES))
        for lanes, alone in (
            (slice(0, LANES - GENERAL), domain.batch(step, range(LANES - GENERAL))),
            (slice(LANES - GENERAL, LANES), general.batch(step, range(GENERAL))),
        ):
            spelled, targets = columns(batch, lanes)
            assert (spelled == read_spelled(alone)).all() and torch.equal(targets, alone.targets)
            cold = torch.full((LANES,), batch.resets_state) if batch.cold is None else batch.cold
            assert (cold[lanes] == alone.resets_state).all()
        assert (batch.step, batch.first_lane) == (step, 0)


def test_an_epoch_holds_the_tokens_of_the_domain_once_and_the_share_of_general_tokens(
    parts: tuple[TrainWindows, TrainWindows], prepared: Dataset
) -> None:
    mixed, domain = MixedWindows(*parts), parts[0].lanes
    batches = [mixed.batch(step, range(LANES)) for step in range(domain.windows_per_epoch)]
    tokens = [columns(batch, slice(0, LANES - GENERAL))[1][0].numel() for batch in batches]
    total = sum(batch.targets[0].numel() for batch in batches)
    assert sum(tokens) == domain.windows_per_epoch * domain.tokens_per_step
    assert sum(tokens) > prepared.splits["train"].num_tokens - domain.tokens_per_step
    assert total - sum(tokens) == total * GENERAL / LANES


@pytest.mark.parametrize(("ranks", "groups"), [(1, 4), (2, 1), (4, 2), (8, 1)])
def test_ranks_and_lane_groups_side_by_side_read_what_one_process_reads(
    parts: tuple[TrainWindows, TrainWindows], ranks: int, groups: int
) -> None:
    mixed = MixedWindows(*parts)
    for step in (0, 1, parts[1].lanes.windows_per_epoch, 97):
        whole = mixed.batch(step, range(LANES))
        pieces = [
            mixed.batch(step, lanes)
            for rank in range(ranks)
            for lanes in lane_groups(lane_share(LANES, rank, ranks), groups)
        ]
        assert [piece.first_lane for piece in pieces] == [n * LANES // len(pieces) for n in range(len(pieces))]
        assert (np.concatenate([read_spelled(piece) for piece in pieces], axis=2) == read_spelled(whole)).all()
        assert torch.equal(torch.cat([piece.targets for piece in pieces], dim=2), whole.targets)


def test_a_mixed_batch_does_not_depend_on_the_batches_read_before(parts: tuple[TrainWindows, TrainWindows]) -> None:
    mixed = MixedWindows(*parts)
    for step in (50, 3, 51, 4):
        mixed.batch(step, range(LANES))
    assert same(mixed.batch(3, range(LANES)), MixedWindows(*parts).batch(3, range(LANES)))


@pytest.mark.parametrize(("lanes", "share", "number"), [(8, 0.25, 2), (32, 0.1, 3), (1024, 0.1, 102), (2, 0.5, 1)])
def test_a_share_is_rounded_to_whole_lanes(lanes: int, share: float, number: int) -> None:
    assert general_lanes(lanes, share) == number


@pytest.mark.parametrize(("lanes", "share"), [(8, 0.01), (8, 0.99), (1, 0.5)])
def test_a_share_that_leaves_one_text_without_a_lane_is_refused(lanes: int, share: float) -> None:
    with pytest.raises(ConfigError, match="must be one at least and not all"):
        general_lanes(lanes, share)
