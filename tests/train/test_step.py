"""Whole training steps against plain autograd: dense sampled softmax, torch's clipping, and Adagrad in full."""

from pathlib import Path

import pytest
import torch

from tests.train import runs
from tests.train.reference_steps import STEPS, reference


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["optimizer.clip_norm=0.5", "model.dropout=0.3"],
        ["softmax.candidates=per_direction"],
        ["softmax.kind=full"],
        ["softmax.affixes=true", "optimizer.clip_norm=0.5"],
        ["train.lanes_at_once=2"],
        ["data.window=250"],  # an epoch has two steps
        ["data.cold_start_share=0.3"],
        ["data.cold_start_share=0.3", "train.lanes_at_once=2"],
        ["train.lanes_at_once=4", "softmax.kind=full"],
    ],
    ids=lambda changes: " ".join(changes) or "default",
)
def test_three_steps_give_the_weights_of_plain_autograd(dataset: Path, tmp_path: Path, changes: list[str]) -> None:
    settings = [*changes, f"train.max_steps={STEPS}", f"train.validate_every_steps={STEPS}"]
    runs.train_here(dataset, tmp_path / "run", *settings)
    model, losses, norms = reference(dataset, runs.config_of(dataset, tmp_path, *settings))
    trained = runs.newest(tmp_path / "run")["state_dict"]
    for name, expected in model.state_dict().items():
        torch.testing.assert_close(trained[name], expected, rtol=0, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    curve = runs.curve(tmp_path / "run")
    assert [curve[step + 1]["train/loss"] for step in range(STEPS)] == pytest.approx(losses, rel=1e-6)
    assert [curve[step + 1]["train/gradient_norm"] for step in range(STEPS)] == pytest.approx(norms, rel=1e-5)


def test_every_gradient_of_the_comparison_is_clipped(dataset: Path, tmp_path: Path) -> None:
    config = runs.config_of(dataset, tmp_path, "optimizer.clip_norm=0.5", "model.dropout=0.3")
    assert min(reference(dataset, config)[2]) > 1.0
