"""Two and four gloo processes, or lanes a few at a time, train the same; a run may change between them."""

from pathlib import Path

import pytest
import torch

from data_prep.dataset.open import open_dataset
from pipeline.data.datamodule import StepBatches
from pipeline.data.lanes import TrainLanes, lane_groups, lane_share
from pipeline.data.vocabulary import Vocabulary
from pipeline.data.windows import BatchMaker, TrainWindows
from pipeline.train.run_dir.tracking import read_metrics
from tests.train import runs

STEPS = 12
ONCE = [f"train.max_steps={STEPS}", f"train.validate_every_steps={STEPS}", f"checkpoint.every_steps={STEPS}"]
OTHERS = {
    "two processes": (2, []),
    "four processes, a lane at a time": (4, ["train.lanes_at_once=1"]),
    "two processes, candidates for each direction": (2, ["softmax.candidates=per_direction"]),
    "two processes, shared rows": (2, ["softmax.affixes=true"]),
    "two processes, cold starts": (2, ["data.cold_start_share=0.3"]),
    "two processes, full softmax": (2, ["softmax.kind=full"]),
    "two processes, Muon and shared rows": (2, ["softmax.affixes=true", "optimizer.name=muon", "optimizer.lr=0.01"]),
}


def test_the_comparisons_have_dropout_and_clip_gradients(dataset: Path, tmp_path: Path) -> None:
    assert runs.config_of(dataset, tmp_path).model.dropout > 0
    runs.train_here(dataset, tmp_path / "run", *ONCE)
    runs.train_here(dataset, tmp_path / "bare", *ONCE, "model.dropout=0")
    assert runs.losses(tmp_path / "run") != pytest.approx(runs.losses(tmp_path / "bare"), rel=1e-3)
    bound = runs.config_of(dataset, tmp_path).optimizer.clip_norm
    assert bound is not None and max(v["train/gradient_norm"] for v in runs.curve(tmp_path / "run").values()) > bound


@pytest.mark.slow
@pytest.mark.parametrize(("ranks", "changes"), OTHERS.values(), ids=OTHERS.keys())
def test_other_world_sizes_train_with_the_same_losses(
    dataset: Path, tmp_path: Path, ranks: int, changes: list[str]
) -> None:
    model = [pair for pair in changes if pair.startswith(("softmax", "optimizer", "data"))]
    runs.train_here(dataset, tmp_path / "one", *ONCE, *model)
    if changes:
        runs.run_ranks(dataset, tmp_path / "other", ranks, *ONCE, *changes)
    else:
        runs.run(dataset, tmp_path / "other", *ONCE, f"train.devices={ranks}")  # here Lightning starts the ranks
    one, other = (read_metrics(tmp_path / name) for name in ("one", "other"))
    assert list(other) == list(range(1, STEPS + 1))
    for step in one:
        assert other[step]["train/loss"] == pytest.approx(one[step]["train/loss"], abs=1e-5)
        assert other[step]["train/gradient_norm"] == pytest.approx(one[step]["train/gradient_norm"], rel=1e-4)
    for name in ("val/perplexity", "val/perplexity_forward", "val/perplexity_backward"):
        assert other[STEPS][name] == pytest.approx(one[STEPS][name], rel=2e-6)
    assert other[STEPS]["val/tokens"] == one[STEPS]["val/tokens"]
    ours, theirs = runs.newest(tmp_path / "one"), runs.newest(tmp_path / "other")
    for a, b in zip(ours["elmo"]["states"], theirs["elmo"]["states"], strict=True):
        torch.testing.assert_close(b["c"], a["c"], rtol=0, atol=1e-4)
        torch.testing.assert_close(b["h"], a["h"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_gradients_exchanged_in_bfloat16_give_losses_near_those_of_one_process(dataset: Path, tmp_path: Path) -> None:
    runs.train_here(dataset, tmp_path / "one", *ONCE)
    runs.run_ranks(dataset, tmp_path / "other", 2, *ONCE, "train.exchange=bfloat16")
    one, other = (list(runs.losses(tmp_path / name).values()) for name in ("one", "other"))
    assert other == pytest.approx(one, abs=2e-3)
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 1e-6, "float32 was exchanged"


@pytest.mark.parametrize("at_once", [1, 2, 4])
@pytest.mark.parametrize("kind", ["sampled", "full"])
def test_lanes_a_few_at_a_time_train_with_the_same_losses(
    dataset: Path, tmp_path: Path, at_once: int, kind: str
) -> None:
    runs.train_here(dataset, tmp_path / "one", *ONCE, f"softmax.kind={kind}")
    runs.train_here(dataset, tmp_path / "other", *ONCE, f"softmax.kind={kind}", f"train.lanes_at_once={at_once}")
    one, other = (runs.curve(tmp_path / name) for name in ("one", "other"))
    assert [other[s]["train/loss"] for s in one] == pytest.approx([one[s]["train/loss"] for s in one], abs=1e-5)
    assert other[STEPS]["val/perplexity"] == pytest.approx(one[STEPS]["val/perplexity"], rel=2e-6)


def test_lanes_a_few_at_a_time_train_with_the_same_losses_by_muon(dataset: Path, tmp_path: Path) -> None:
    muon = ["optimizer.name=muon", "optimizer.lr=0.01"]
    runs.train_here(dataset, tmp_path / "one", *ONCE, *muon)
    runs.train_here(dataset, tmp_path / "other", *ONCE, *muon, "train.lanes_at_once=2")
    one, other = (runs.curve(tmp_path / name) for name in ("one", "other"))
    assert [other[s]["train/loss"] for s in one] == pytest.approx([one[s]["train/loss"] for s in one], abs=1e-5)


@pytest.mark.slow
def test_a_run_resumes_under_other_world_sizes_with_the_same_losses(dataset: Path, tmp_path: Path) -> None:
    every = ["train.validate_every_steps=20", "train.epochs=100"]
    runs.train_here(dataset, tmp_path / "one", "train.max_steps=76", *every)
    moves = [(1, []), (2, []), (4, ["train.lanes_at_once=1"]), (1, ["train.lanes_at_once=2"])]
    # The first and the third move are in the middle of an epoch, which has 55 steps.
    for number, (ranks, changes) in enumerate(moves):
        settings = [f"train.max_steps={19 * (number + 1)}", *every, *changes]
        printed = runs.run_ranks(dataset, tmp_path / "moved", ranks, *settings)
        assert f"resumed at step {19 * number}" in printed or number == 0
    one, moved = runs.curve(tmp_path / "one"), runs.curve(tmp_path / "moved")
    assert list(moved) == list(one) == list(range(1, 77))
    assert [moved[s]["train/loss"] for s in one] == pytest.approx([one[s]["train/loss"] for s in one], abs=1e-4)
    for step in (20, 40, 60):
        assert moved[step]["val/perplexity"] == pytest.approx(one[step]["val/perplexity"], rel=1e-4)
    assert runs.newest(tmp_path / "moved")["elmo"]["tokens"] == 76 * 80


@pytest.mark.parametrize(("ranks", "groups"), [(2, 1), (4, 2), (8, 1), (1, 4)])
def test_ranks_and_lane_groups_side_by_side_read_what_one_process_reads(dataset: Path, ranks: int, groups: int) -> None:
    data = open_dataset(str(dataset))
    split = data.splits["train"]
    lanes = TrainLanes(split.num_tokens, 8, 10)

    def batches(rank: int, of: int, groups: int) -> StepBatches:
        windows = TrainWindows(split, BatchMaker(data.lexicon, Vocabulary(500), 50), lanes, seed=1)
        return StepBatches(windows, lane_groups(lane_share(8, rank, of), groups))

    whole = batches(0, 1, 1)
    parts = [batches(rank, ranks, groups) for rank in range(ranks)]
    for step in (0, 1, 37, 54, 55, 56, 200):
        (expected,) = whole[step]
        got = [batch for part in parts for batch in part[step]]
        assert [batch.first_lane for batch in got] == [n * 8 // len(got) for n in range(len(got))]
        assert all(batch.step == step and batch.resets_state == expected.resets_state for batch in got)
        spelled = torch.cat([batch.characters[batch.word_index.long()] for batch in got], dim=2)
        assert torch.equal(spelled, expected.characters[expected.word_index.long()])
        assert torch.equal(torch.cat([batch.targets for batch in got], dim=2), expected.targets)
