"""Each kind of training learns: precision, optimizer, candidates, softmax, order."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.dataset.lexicon import BOS_ID, EOS_ID, UNK_ID
from data_prep.dataset.open import open_dataset
from pipeline.apply.load import load_trained
from pipeline.cli import main
from pipeline.model.bilm import num_parameters
from pipeline.model.language_model import LanguageModel
from pipeline.train.pretrain import plan_pretraining
from tests import corpora
from tests.train import runs

STEPS = 220  # four epochs
OPTIONS = {
    "the paper's": [],
    "bfloat16": ["train.precision=bf16-mixed"],
    "Adam with a schedule": [
        "optimizer.name=adam", "optimizer.lr=0.005", "optimizer.schedule=cosine", "optimizer.warmup_steps=20",
    ],
    "Adam, and Adagrad for the softmax": ["optimizer.name=adam-adagrad", "optimizer.lr=0.005"],
    "candidates for each direction": ["softmax.candidates=per_direction"],
    "an order for each direction": ["data.order=per_direction"],
    "full softmax in bfloat16": ["softmax.kind=full", "train.precision=bf16-mixed"],
}  # fmt: skip


@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_run_learns_the_text(dataset: Path, tmp_path: Path, changes: list[str]) -> None:
    settings = [f"train.max_steps={STEPS}", "train.epochs=9", "train.validate_every_steps=55"]
    runs.train_here(dataset, tmp_path / "run", *settings, *changes)
    curve = runs.curve(tmp_path / "run")
    first, last = (curve[step]["val/perplexity"] for step in (55, STEPS))
    words = runs.newest(tmp_path / "run")["state_dict"]["softmax.bias"].numel()
    assert last < first and last < 0.6 * words
    kind = "train/perplexity" if "softmax.kind=full" in changes else "train/sampled_perplexity"
    assert kind in curve[1]
    losses = list(runs.losses(tmp_path / "run").values())
    assert sum(losses[-20:]) / 20 < sum(losses[:20]) / 20 - 0.5
    assert curve[STEPS]["train/bad_steps"] == 0


def test_under_bfloat16_losses_are_near_and_weights_and_states_stay_in_float32(dataset: Path, tmp_path: Path) -> None:
    runs.train_here(dataset, tmp_path / "run", "train.max_steps=3", "train.precision=bf16-mixed")
    runs.train_here(dataset, tmp_path / "float32", "train.max_steps=3")
    low, full = (list(runs.losses(tmp_path / name).values()) for name in ("run", "float32"))
    assert low == pytest.approx(full, abs=0.01)
    assert all(a != b for a, b in zip(low, full, strict=True)), "bfloat16 was not used"
    content = runs.newest(tmp_path / "run")
    values = [*content["state_dict"].values(), *(t for s in content["elmo"]["states"] for t in s.values())]
    values += [v for s in content["optimizer_states"][0]["state"].values() for v in s.values()]
    assert {value.dtype for value in values} == {torch.float32}


def test_only_backward_reads_another_order_if_that_is_asked_for(dataset: Path, tmp_path: Path) -> None:
    shared, other = (
        plan_pretraining(runs.config_of(dataset, tmp_path / "run", f"data.order={order}")).windows.batch(7, range(8))
        for order in ("shared", "per_direction")
    )
    assert torch.equal(shared.targets[0], other.targets[0]) and not torch.equal(shared.targets[1], other.targets[1])


def test_validation_can_be_limited_to_some_tokens(dataset: Path, tmp_path: Path) -> None:
    runs.train_here(dataset, tmp_path / "run", "train.max_steps=2", "train.validate_tokens=33")
    assert runs.curve(tmp_path / "run")[2]["val/tokens"] == 33


def test_the_logged_learning_rate_follows_the_schedule(dataset: Path, tmp_path: Path) -> None:
    settings = ["train.max_steps=10", "optimizer.schedule=linear", "optimizer.warmup_steps=2", "optimizer.lr=0.1"]
    runs.train_here(dataset, tmp_path / "run", *settings)
    rates = [values["train/learning_rate"] for values in runs.curve(tmp_path / "run").values()]
    assert rates == pytest.approx([0.05, 0.1, *(0.1 * (1 - k / 8) for k in range(8))])


def test_a_run_that_starts_from_unigrams_starts_at_their_perplexity_and_learns(dataset: Path, tmp_path: Path) -> None:
    settings = ["softmax.init=unigram", "train.max_steps=110", "train.epochs=2", "train.validate_every_steps=110"]
    runs.train_here(dataset, tmp_path / "start", *settings, "optimizer.lr=1e-9", "train.max_steps=1")
    counts = runs.newest(tmp_path / "start")["elmo"]["vocabulary"]["counts"].double()
    counts[[BOS_ID, EOS_ID]] = counts[EOS_ID] / 2
    shares = counts.clamp(min=0.5) / counts.clamp(min=0.5).sum()
    heldout = open_dataset(dataset).splits["heldout"]
    words = np.concatenate([heldout.chunk(number) for number in range(heldout.num_chunks)])
    targets = np.where(words < len(shares), words, UNK_ID)
    expected = math.exp(-float(shares.log()[torch.from_numpy(targets)].mean()))
    start = runs.curve(tmp_path / "start")[1]
    assert start["val/perplexity_forward"] == pytest.approx(expected, rel=1e-4)
    assert start["val/perplexity_backward"] == pytest.approx(expected, rel=1e-4)
    runs.train_here(dataset, tmp_path / "run", *settings)
    assert runs.curve(tmp_path / "run")[110]["val/perplexity"] < 0.97 * expected


def test_shared_rows_are_added_up_wherever_a_checkpoint_is_read(
    dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = ["softmax.affixes=true", "softmax.init=unigram", "train.max_steps=30", "train.validate_every_steps=30"]
    runs.train_here(dataset, tmp_path / "run", *settings)
    content = runs.newest(tmp_path / "run")
    own, shared = (content["state_dict"][f"softmax.{name}weight"] for name in ("", "affixes."))
    assert own.abs().max() > 1e-3 and shared.abs().max() > 1e-3
    assert f"softmax {own.numel() + len(own):,} (" in capfd.readouterr().err
    perplexity = runs.curve(tmp_path / "run")[30]["val/perplexity"]
    assert main(["export", f"checkpoint={tmp_path / 'run'}", f"output={tmp_path / 'model'}"]) == 0
    for place in ("run", "model"):
        model = load_trained(str(tmp_path / place)).language_model("no softmax")
        assert num_parameters(model)["softmax"] == own.numel() + len(own)
        assert not torch.equal(model.softmax.weight, own)
        arguments = [f"checkpoint={tmp_path / place}", f"data={dataset}", f"output={tmp_path / place}.json"]
        assert main(["evaluate", *arguments, "evaluate.lanes=8"]) == 0
        assert json.loads(Path(f"{tmp_path / place}.json").read_text())["perplexity"] == pytest.approx(
            perplexity, rel=2e-5
        )
    assert not isinstance(load_trained(str(tmp_path / "run"), softmax=False).bilm, LanguageModel)


def test_a_dataset_without_held_out_text_is_trained_without_validation(tmp_path: Path) -> None:
    text = corpora.write_text(tmp_path / "text.txt", corpora.zipf_sentences(100, seed=5))
    runs.prepare([str(text)], str(tmp_path / "data"), workers=1, show_progress=False)
    outcome = runs.train_here(tmp_path / "data", tmp_path / "run", "train.max_steps=4")
    assert outcome.step == 4 and runs.saved_steps(tmp_path / "run") == [4]
    assert not any("val/perplexity" in values for values in runs.curve(tmp_path / "run").values())


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("train.devices=3", "use 1 or 2 or 4 or 8 ranks, or use a multiple of 3 lanes"),
        ("train.lanes_at_once=3", "train.lanes_at_once=3 does not divide the 8 lanes of a rank"),
        ("train.epochs=0.005", "train.epochs=0.005 is less than a step of this text, of which an epoch has 55"),
        ("data.lanes=4000", "fewer than data.lanes=4000 x data.window=10"),
        ("softmax.num_samples=99999", "softmax.num_samples=99999 is more than the vocabulary"),
        ("data.path=/none", "/none"),
        ("checkpoint.keep_last=1", "checkpoint.keep_last=1 must be at least 2"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused_in_one_sentence(
    dataset: Path, tmp_path: Path, pair: str, message: str
) -> None:
    """No run folder is made, so that the same run.dir can be used with other settings."""
    with pytest.raises(ValueError, match=message):
        runs.train_here(dataset, tmp_path / "run", pair)
    assert not (tmp_path / "run").exists()
