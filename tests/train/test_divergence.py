"""Steps that are not finite are dropped and counted; too many in a row end the run."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from pipeline.characters import BEGIN_WORD
from pipeline.train import run as run_module
from pipeline.train.step import module as module_module
from pipeline.train.step import optimizer as optimizer_module
from pipeline.train.step.finite_check import Diverged
from pipeline.train.step.module import BiLMModule
from tests.train import runs
from tests.train.wandb_files import exit_codes


class Poison(Callback):
    """Make one weight infinite or NaN in some steps, and check that these steps change nothing."""

    def __init__(self, steps: set[int], weight: str, value: float) -> None:
        self.steps, self.weight, self.value = steps, weight, value
        self.left_alone: dict[int, bool] = {}

    def _poisoned(self, module: BiLMModule) -> torch.Tensor:
        values = module.bilm.get_parameter(self.weight).data
        return values[BEGIN_WORD, :1] if self.weight == "encoder.char_embed" else values.view(-1)[:1]

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, i: int) -> None:
        assert isinstance(pl_module, BiLMModule)
        if pl_module.state.step in self.steps:
            self.kept = self._poisoned(pl_module).clone()
            self._poisoned(pl_module).fill_(self.value)
            self.before = snapshot(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, BiLMModule)
        if pl_module.state.step - 1 in self.steps:
            same = list(runs.differences(self.before, snapshot(pl_module))) == []
            finite = all(bool(t.isfinite().all()) for states in pl_module.state.lstm for s in states or [] for t in s)
            self.left_alone[pl_module.state.step - 1] = same and finite
            self._poisoned(pl_module).copy_(self.kept)


def snapshot(module: BiLMModule) -> dict[str, Any]:
    optimizer = module.optimizers(use_pl_optimizer=False)
    assert isinstance(optimizer, torch.optim.Optimizer)
    weights = {name: value.clone() for name, value in module.bilm.state_dict().items()}
    return {"weights": weights, "optimizer": _copied(optimizer.state_dict())}


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(v) for key, v in value.items()}
    return value.clone() if isinstance(value, torch.Tensor) else value


def train_with(callback: Callback, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> None:
    build = run_module.build_trainer

    def with_callback(*args: Any) -> pl.Trainer:
        trainer = build(*args)
        trainer.callbacks.insert(0, callback)
        return trainer

    monkeypatch.setattr(run_module, "build_trainer", with_callback)
    runs.train_here(*arguments)


INF, NAN = float("inf"), float("nan")
BAD = [("encoder.char_embed", INF), ("encoder.char_embed", -INF), ("encoder.char_embed", NAN), ("softmax.weight", INF),
       ("softmax.weight", NAN), ("softmax.bias", INF), ("layers.0.weight_proj", NAN)]  # fmt: skip


LATE = [(True, *BAD[2]), (True, *BAD[3]), (True, *BAD[6])]


def read_results_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the optimizer skip bad steps by itself and the CPU read the results later, as on a GPU."""
    for module in (module_module, optimizer_module):
        monkeypatch.setattr(module, "uses_kernels", lambda values: True)


@pytest.mark.parametrize(("is_late", "weight", "value"), [(False, *bad) for bad in BAD] + LATE)
@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_a_step_that_is_not_finite_changes_neither_weights_nor_optimizer(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str, is_late: bool, weight: str,
    value: float,
) -> None:  # fmt: skip
    if is_late:
        read_results_late(monkeypatch)
    poison = Poison({3, 5, 6}, weight, value)
    settings = ["train.max_steps=9", f"optimizer.name={optimizer}", "optimizer.lr=0.01", "softmax.num_samples=500"]
    train_with(poison, monkeypatch, dataset, tmp_path / "run", *settings)
    assert poison.left_alone == {3: True, 5: True, 6: True}
    curve = runs.curve(tmp_path / "run")
    assert [step for step in curve if "train/loss" in curve[step]] == [1, 2, 3, 5, 8, 9]
    assert [curve[step]["train/bad_steps"] for step in curve] == [0, 0, 0, 1, 1, 2, 3, 3, 3]
    content = runs.newest(tmp_path / "run")
    assert content["elmo"]["bad_steps"] == 3 and content["elmo"]["bad_steps_in_a_row"] == 0
    assert all(bool(w.isfinite().all()) for w in content["state_dict"].values())


@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_bad_steps_whose_results_are_read_late_have_the_same_effect(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    settings = [f"optimizer.name={optimizer}", "optimizer.lr=0.01", "softmax.num_samples=500", "train.max_steps=9"]
    for name, every in (("at_once", 1), ("late", 9)):
        read_results_late(monkeypatch)
        poison = Poison({3, 5, 6}, "encoder.char_embed", NAN)
        train_with(poison, monkeypatch, dataset, tmp_path / name, *settings, f"train.log_every_steps={every}")
        monkeypatch.undo()
    at_once, late = (runs.newest(tmp_path / name) for name in ("at_once", "late"))
    assert late["elmo"]["bad_steps"] == 3 and late["elmo"]["bad_steps_in_a_row"] == 0
    for part in ("state_dict", "optimizer_states"):
        assert list(runs.differences(at_once[part], late[part])) == []
    curves = [runs.curve(tmp_path / name) for name in ("at_once", "late")]
    losses = [curves[0][step]["train/loss"] for step in curves[0] if "train/loss" in curves[0][step]]
    assert curves[1][9]["train/loss"] == pytest.approx(sum(losses) / 6) and curves[1][9]["train/bad_steps"] == 3


def test_too_many_bad_steps_in_a_row_end_the_run_even_if_read_late(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_results_late(monkeypatch)
    settings = ["train.max_bad_steps=3", "train.log_every_steps=100", "optimizer.lr=1e30", "train.max_steps=50"]
    with pytest.raises(Diverged, match="3 steps in a row were not finite"):
        runs.train_here(dataset, tmp_path / "run", *settings)


def test_too_many_bad_steps_in_a_row_end_the_run_and_name_the_last_good_checkpoint(
    dataset: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    settings = ["train.max_bad_steps=3", "checkpoint.every_steps=100"]
    runs.train_here(dataset, run_dir, *settings, "train.max_steps=4")
    with pytest.raises(Diverged) as error:
        runs.train_here(dataset, run_dir, *settings, "optimizer.lr=1e30", "train.max_steps=50")
    assert "3 steps in a row were not finite" in str(error.value)
    assert str(error.value).endswith(f"the last good checkpoint is {run_dir / 'checkpoints' / 'step-00000004.ckpt'}")
    assert runs.saved_steps(run_dir) == [4]
    # At the old learning rate the run resumes.
    outcome = runs.train_here(dataset, run_dir, *settings, "train.max_steps=8")
    assert outcome.step == 8 and runs.newest(run_dir)["elmo"]["bad_steps"] == 0


def test_a_run_that_diverges_before_its_first_checkpoint_reports_that_there_is_none(
    dataset: Path, tmp_path: Path
) -> None:
    with pytest.raises(Diverged, match="no checkpoint yet"):
        runs.train_here(dataset, tmp_path / "run", "train.max_bad_steps=2", "optimizer.lr=1e30", "train.max_steps=50")


@pytest.mark.slow
def test_two_ranks_that_diverge_end_with_exit_code_1_and_one_sentence(dataset: Path, tmp_path: Path) -> None:
    settings = ["train.max_bad_steps=3", "optimizer.lr=1e30", "train.devices=2", "wandb.mode=offline"]
    printed = runs.run(dataset, tmp_path / "run", *settings, code=1)
    lines = [line for line in printed.splitlines() if line.startswith("elmo pretrain:")]
    assert len(lines) == 1 and "3 steps in a row were not finite" in lines[0]
    assert "Traceback" not in printed
    assert exit_codes(tmp_path / "run") == [1]
