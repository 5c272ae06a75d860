"""Training batches against their closed form in plain Python: at any step, in any order, on any rank."""

import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.dataset.shards import Dataset
from pipeline.data.lanes import TrainLanes, epoch_order, lane_groups, lane_share
from pipeline.data.stream import Stream
from pipeline.data.vocabulary import Vocabulary
from pipeline.data.windows import BatchMaker, TrainWindows
from tests.data import plain
from tests.data.corpora import Corpus, corpora, few, lane_plans, many, read_spelled, same, some

VISITS = st.sampled_from([1, 10, 45, 1 << 20])  # tokens of a lane that are read together


@st.composite
def windows_of_corpora(draw: st.DrawFn) -> tuple[Corpus, TrainWindows, int]:
    """Draw (corpus, its windows, seed)."""
    corpus = draw(corpora())
    seed = draw(st.integers(0, 1000))
    lanes = TrainLanes(corpus.num_tokens, *draw(lane_plans(corpus)))
    return corpus, TrainWindows(corpus, corpus.maker(), lanes, seed, draw(VISITS)), seed


@many
@given(windows_of_corpora(), st.data())
def test_any_batch_equals_its_closed_form(made: tuple[Corpus, TrainWindows, int], data: st.DataObject) -> None:
    corpus, windows, seed = made
    plan, words = windows.lanes, corpus.lexicon().words()
    step = data.draw(st.integers(0, 3 * plan.windows_per_epoch))
    first = data.draw(st.integers(0, plan.num_lanes - 1))
    lanes = range(first, data.draw(st.integers(first + 1, plan.num_lanes)))
    epoch, number = divmod(step, corpus.num_tokens // (plan.num_lanes * plan.window))
    both = plain.in_order(plain.text_of(corpus), epoch_order(corpus.chunk_shard, seed, epoch))
    inputs, targets = plain.window(both, plan.num_lanes, plan.window, number, lanes)

    batch = windows.batch(step, lanes)
    rows = [plain.spelled_id(word, words, batch.characters.shape[1]) for word in range(len(words))]
    assert (read_spelled(batch) == np.array(rows)[inputs]).all()
    assert (batch.targets.numpy() == np.where(np.array(targets) < 5, targets, plain.UNK)).all()
    assert (batch.step, batch.first_lane, batch.resets_state) == (step, first, number == 0)
    assert batch.mask is None
    dtypes = (batch.characters.dtype, batch.word_index.dtype, batch.targets.dtype)
    assert dtypes == (torch.int16, torch.int32, torch.int64)


@some
@given(windows_of_corpora(), st.integers(0, 3))
def test_an_epoch_uses_every_position_once_in_each_direction_except_for_its_tail(
    made: tuple[Corpus, TrainWindows, int], epoch: int
) -> None:
    corpus, windows, seed = made
    plan = windows.lanes
    every_word = TrainWindows(corpus, corpus.maker(1 << 30), plan, seed)
    steps = range(epoch * plan.windows_per_epoch, (epoch + 1) * plan.windows_per_epoch)
    batches = [every_word.batch(step, range(plan.num_lanes)).targets for step in steps]
    by_lane = torch.cat(batches, dim=1).transpose(1, 2).reshape(2, -1)
    order = epoch_order(corpus.chunk_shard, seed, epoch)
    tail = Stream(corpus, order).read(by_lane.shape[1], corpus.num_tokens).targets
    assert tail.shape[1] < plan.tokens_per_step
    sentences = [sentence for chunk in plain.text_of(corpus) for sentence in chunk]
    for direction, (_, targets) in enumerate(plain.directions(sentences)):
        assert Counter(by_lane[direction].tolist()) + Counter(tail[direction].tolist()) == Counter(targets)


def test_each_epoch_leaves_out_another_tail() -> None:
    corpus = Corpus([[[9, 20], [31], [4, 4, 4, 11]], [[29], [8, 15, 3]], [[24, 2], [30]]])
    plan = TrainLanes(corpus.num_tokens, 4, 8)
    covered = plan.num_lanes * plan.lane_tokens
    assert covered < corpus.num_tokens
    orders = [epoch_order(corpus.chunk_shard, 0, epoch) for epoch in range(12)]
    tails = {tuple(Stream(corpus, order).read(covered, corpus.num_tokens).targets[0]) for order in orders}
    assert len(tails) > 4  # seven chunks can be the last one


@some
@given(windows_of_corpora(), st.data())
def test_batches_read_in_any_order_equal_those_of_a_new_reader(
    made: tuple[Corpus, TrainWindows, int], data: st.DataObject
) -> None:
    corpus, windows, seed = made
    lanes = range(windows.lanes.num_lanes)
    for step in data.draw(st.lists(st.integers(0, 2 * windows.lanes.windows_per_epoch), min_size=1, max_size=8)):
        fresh = TrainWindows(corpus, corpus.maker(), windows.lanes, seed)
        assert same(windows.batch(step, lanes), fresh.batch(step, lanes))


@some
@given(windows_of_corpora(), st.data())
def test_ranks_and_lane_groups_side_by_side_are_the_batch_of_one_rank(
    made: tuple[Corpus, TrainWindows, int], data: st.DataObject
) -> None:
    corpus, windows, seed = made
    num_lanes = windows.lanes.num_lanes
    step = data.draw(st.integers(0, 2 * windows.lanes.windows_per_epoch))
    whole = windows.batch(step, range(num_lanes))
    for ranks in divisors(num_lanes):
        for groups in divisors(num_lanes // ranks):
            parts = []
            for rank in range(ranks):
                reader = TrainWindows(corpus, corpus.maker(), windows.lanes, seed)
                share = lane_groups(lane_share(num_lanes, rank, ranks), groups)
                parts += [reader.batch(step, lanes) for lanes in share]
            assert [part.first_lane for part in parts] == list(range(0, num_lanes, num_lanes // (ranks * groups)))
            assert torch.cat([part.targets for part in parts], dim=2).equal(whole.targets)
            assert (np.concatenate([read_spelled(part) for part in parts], axis=2) == read_spelled(whole)).all()


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


@few
@given(corpus=corpora(), seed=st.integers(0, 5), data=st.data())
def test_shards_on_disk_give_the_batches_of_the_corpus_in_memory(
    tmp_path_factory: pytest.TempPathFactory, corpus: Corpus, seed: int, data: st.DataObject
) -> None:
    dataset = corpus.write(tmp_path_factory.mktemp("corpus") / "dataset")
    plan = TrainLanes(corpus.num_tokens, *data.draw(lane_plans(corpus)))
    disk = TrainWindows(dataset.splits["train"], BatchMaker(dataset.lexicon, Vocabulary(5), 12), plan, seed)
    memory = TrainWindows(corpus, corpus.maker(), plan, seed)
    for step in range(2 * plan.windows_per_epoch):
        assert same(disk.batch(step, range(plan.num_lanes)), memory.batch(step, range(plan.num_lanes)))


def test_windows_that_were_read_can_be_pickled(prepared: Dataset) -> None:
    split = prepared.splits["train"]
    windows = TrainWindows(
        split, BatchMaker(prepared.lexicon, Vocabulary(100), 50), TrainLanes(split.num_tokens, 4, 5), 3
    )
    first = windows.batch(17, range(4))
    sent = pickle.loads(pickle.dumps(windows))
    assert same(sent.batch(17, range(4)), first) and same(sent.batch(170, range(4)), windows.batch(170, range(4)))


def test_changing_a_batch_does_not_change_later_batches(prepared: Dataset) -> None:
    split = prepared.splits["train"]
    maker = BatchMaker(prepared.lexicon, Vocabulary(100), 50)
    windows = TrainWindows(split, maker, TrainLanes(split.num_tokens, 4, 5), 3)
    before = windows.batch(2, range(4))
    spoilt = windows.batch(2, range(4))
    for tensor in (spoilt.characters, spoilt.word_index, spoilt.targets):
        tensor.zero_()
    assert same(windows.batch(2, range(4)), before)


class Endless(Corpus):
    """One chunk repeated as often as a corpus of 500 billion tokens has chunks."""

    def __post_init__(self) -> None:
        super().__post_init__()
        number = 500_000_000_000 // self.num_tokens
        self.chunk_tokens = np.full(number, self.num_tokens)
        self.chunk_shard = np.arange(number) // 128
        self.num_tokens *= number
        self.tokens_handed_out = 0

    def chunk(self, index: int) -> np.ndarray:
        self.chunks_asked_for += 1
        return self.chunks[0]


def test_the_first_batch_costs_the_same_at_any_step_that_a_run_resumes_from() -> None:
    corpus = Endless([[[25] * 50_000]], types=1000)
    plan = TrainLanes(corpus.num_tokens, 64, 20)

    def chunks_read_for(step: int) -> int:
        corpus.chunks_asked_for = 0
        TrainWindows(corpus, corpus.maker(), plan, seed=0).batch(step, range(64))
        return corpus.chunks_asked_for

    far = 9 * plan.windows_per_epoch + plan.windows_per_epoch // 2
    assert max(chunks_read_for(0), chunks_read_for(far)) <= 2 * 64  # a lane's stretch lies in one chunk or in two
