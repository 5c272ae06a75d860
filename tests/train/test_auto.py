"""`auto` in optimizer.lr and train.precision: what it comes to, and that a resumed run keeps it."""

import json
from pathlib import Path

import pytest
import torch

from pipeline.config.load import load
from pipeline.config.schema import ConfigError, OptimizerConfig, PretrainConfig
from pipeline.model.backend import precision
from pipeline.model.backend.precision import suited_precision
from pipeline.train.auto import rate_rule, resolve_auto
from tests.train import runs

FAST = ["configs/fast.yaml", "train.max_steps=6", "checkpoint.every_steps=2", "train.validate_every_steps=2"]
CELLS = 32  # of the tiny run


def test_fast_takes_the_rate_from_the_width_and_the_steps() -> None:
    config = load(PretrainConfig, ["configs/small.yaml", "configs/fast.yaml", "train.precision=32-true"])
    found = resolve_auto(config, "cpu", 50_000)
    rate, rule = rate_rule(config.optimizer, 1024, 50_000)
    assert config.optimizer.lr == rate and found == {"optimizer.lr": f"{rate} ({rule})"}
    assert rule == "0.015 x (256 / 1,024 cells)^0.5 x (800 / 50,000 steps)^0.25, for muon"
    assert rate == pytest.approx(0.015 * 0.25**0.5 * (800 / 50_000) ** 0.25, rel=0.005)


def test_the_rate_falls_with_the_width_but_not_that_of_the_paper() -> None:
    for name in ("muon", "adam", "adam-adagrad"):
        config = OptimizerConfig(name=name, lr="auto")
        rates = [rate_rule(config, cells, 5000)[0] for cells in (128, 256, 512, 1024, 4096)]
        assert rates == sorted(rates, reverse=True) and len(set(rates)) == 5
    adagrad = OptimizerConfig(lr="auto")
    assert rate_rule(adagrad, 128, 5000) == rate_rule(adagrad, 4096, 50) == (0.2, "at every width, for adagrad")


def test_the_rate_falls_with_more_steps_and_does_not_rise_for_a_short_run() -> None:
    config = OptimizerConfig(name="muon", lr="auto")
    assert (
        rate_rule(config, 256, 1) == rate_rule(config, 256, 800) == (0.015, "0.015 x (256 / 256 cells)^0.5, for muon")
    )
    assert rate_rule(config, 256, 16 * 800)[0] == 0.0075


def test_numbers_and_precisions_that_are_given_stay() -> None:
    config = load(PretrainConfig, ["configs/fast.yaml", "optimizer.lr=3e-3", "train.precision=bf16-mixed"])
    assert resolve_auto(config, "cpu", 6) == {}
    assert (config.optimizer.lr, config.train.precision) == (0.003, "bf16-mixed")


def test_bfloat16_is_chosen_where_the_processor_has_it_and_the_network_is_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "HAS_BF16", True)
    assert [suited_precision(cells, "cpu")[0] for cells in (256, 1024)] == ["32-true", "bf16-mixed"]
    monkeypatch.setattr(precision, "HAS_BF16", False)
    assert suited_precision(1024, "cpu")[0] == "32-true"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_bfloat16_is_chosen_on_a_gpu_that_multiplies_it() -> None:
    has_bf16 = torch.cuda.get_device_capability() >= (8, 0)
    assert suited_precision(256, "cuda")[0] == ("bf16-mixed" if has_bf16 else "32-true")


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("optimizer.lr=fast", "optimizer.lr='fast' must be a number or auto (learning rate"),
        ("optimizer.lr=0", "optimizer.lr=0 must be positive"),
        ("optimizer.lr=true", "optimizer.lr=True must be a number or auto (learning rate"),
        ("train.precision=half", "train.precision='half' must be 32-true, bf16-mixed or auto (bf16-mixed: matrix"),
    ],
)
def test_other_words_are_refused_in_one_sentence(setting: str, rule: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(PretrainConfig, [setting])
    assert str(error.value).startswith(rule) and "\n" not in str(error.value)


def test_a_run_prints_and_stores_what_auto_came_to(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.train_here(dataset, tmp_path / "run", *FAST)
    rate = rate_rule(OptimizerConfig(name="muon"), CELLS, 6)[0]
    printed = capsys.readouterr().err
    assert f"auto     optimizer.lr={rate} (" in printed and "auto     train.precision=32-true (" in printed
    stored = load(PretrainConfig, [str(tmp_path / "run" / "config.yaml")])
    assert stored.optimizer.lr == rate and stored.train.precision == "32-true"
    start = json.loads((tmp_path / "run" / "start.json").read_text())
    assert start["auto"]["optimizer.lr"].startswith(f"{rate} (")


def test_a_resumed_run_keeps_what_auto_came_to_and_trains_bitwise_as_without_a_stop(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*FAST, "optimizer.schedule=constant"]  # at any train.max_steps
    runs.train_here(dataset, tmp_path / "whole", *settings)
    runs.train_here(dataset, tmp_path / "stopped", *settings, "train.max_steps=4")
    # Now on a machine, and by a program, that would choose otherwise.
    monkeypatch.setattr("pipeline.train.auto.suited_precision", lambda cells, device: ("bf16-mixed", "it is faster"))
    monkeypatch.setattr("pipeline.train.auto.rate_rule", lambda *_: (1.0, "another rule"))
    capsys.readouterr()
    runs.train_here(dataset, tmp_path / "stopped", *settings)
    printed = capsys.readouterr().err
    assert printed.count("(as in the last checkpoint)") == 2 and "auto     train.precision=32-true" in printed
    whole, stopped = runs.newest(tmp_path / "whole"), runs.newest(tmp_path / "stopped")
    names = ("state_dict", "optimizer_states", "global_step")
    assert not [found for name in names for found in runs.differences(whole[name], stopped[name], name)]
