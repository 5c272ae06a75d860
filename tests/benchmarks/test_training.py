"""The plain ways learn the same as ours; the commands run and write what they print."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import full_softmax, loader, memory, train_step
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig

SIZES = ["model.filters=[[1,8],[2,8]]", "model.lstm_dim=12", "model.projection_dim=6", "softmax.num_samples=64"]
SIZES += ["data.window=5"]


def test_plain_pytorch_learns_the_same_as_our_training(dataset: Path) -> None:
    config = load(PretrainConfig, [*SIZES, f"data.path={dataset}", "data.lanes=4", "data.vocab_min_count=1"])
    config = replace(config, model=replace(config.model, dropout=0.0, proj_clip=0.05, cell_clip=0.1))
    ways = train_step.build_steps(config, 0, ["ours", "plain", "nn.LSTM"])
    whole = train_step.build_steps(config, 0, ["ours"])["ours"]
    losses = {name: [steps(), steps.in_parts(), steps(), steps()] for name, steps in ways.items()}
    assert losses["plain"] == pytest.approx(losses["ours"], abs=1e-4)
    assert [whole() for _ in range(4)] == pytest.approx(losses["ours"], abs=1e-6)
    assert losses["nn.LSTM"] != pytest.approx(losses["ours"], abs=1e-4)  # nn.LSTM has no clips
    assert losses["ours"][3] < losses["ours"][0]
    for name in ("ours-bf16", "plain-bf16"):
        (low,) = train_step.build_steps(config, 0, [name]).values()
        found = [low(), low.in_parts()]
        assert found == pytest.approx(losses["ours"][:2], abs=0.01) and found != losses["ours"][:2]


def test_training_speed_is_measured_beside_the_plain_ways(dataset: Path, tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_text("softmax: {num_samples: 64}")
    output = tmp_path / "result.json"
    arguments = [str(config), *SIZES, f"data.path={dataset}", "data.vocab_min_count=1", "--lanes=2,4", "--parts"]
    arguments += ["optimizer.name=muon", "optimizer.lr=auto"]
    arguments += ["--seconds=0.01", "--rounds=1", "--threads=1", "--ways=ours,plain,plain-bf16,nn.LSTM"]
    train_step.main([*arguments, f"--output={output}"])
    result = json.loads(output.read_text())
    assert list(result) == ["own x 2", "own x 4"]
    assert list(result["own x 2"]["ways"]) == ["ours", "plain", "plain-bf16", "nn.LSTM"]
    assert all(way["tokens_per_second"] > 0 for way in result["own x 4"]["ways"].values())
    with pytest.raises(SystemExit, match=r"--ways=ours-bf32 is unknown; there are ours, plain, nn\.LSTM"):
        train_step.main([f"data.path={dataset}", "--ways=ours,ours-bf32"])


def test_the_memory_of_a_run_is_compared_with_its_computed_size(dataset: Path, tmp_path: Path) -> None:
    output, config = tmp_path / "result.json", tmp_path / "own.yaml"
    config.write_text("model: {num_highway: 1}")
    memory.main([str(config), *SIZES, f"data.path={dataset}", "--lanes=4", "--steps=2", f"--output={output}"])
    result = json.loads(output.read_text())
    assert result["peak_bytes"] > 0.8 * result["libraries"]
    assert result["paper"]["parameters"] == result["paper"]["optimizer"] > result["paper"]["dense gradients"] > 0


def test_the_full_softmax_needs_the_memory_of_one_block_unlike_plain_pytorch(tmp_path: Path) -> None:
    output = tmp_path / "result.json"
    sizes = ["--vocabulary=200000", "--projection=8", "--positions=320", "--seconds=0.1", "--threads=1"]
    full_softmax.main([*sizes, f"--output={output}"])
    (row,) = json.loads(output.read_text())
    assert row["added_mib"] < 100 < 4 * 320 * 200_000 / 2**20 < row["plain_added_mib"] * 1.1


def test_the_loader_is_measured(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "result.json"
    data = [f"data.path={dataset}", "softmax.num_samples=64"]
    loader.main([*data, "--lanes=4", "--seconds=0.01", f"--output={output}"])
    result = json.loads(output.read_text())
    assert result["opening"]["open_seconds"] > 0 and result["speed"][0]["received_tokens_per_second"] > 0
    assert "| lanes | raw, M tokens/s |" in capsys.readouterr().out


def test_an_unknown_option_ends_a_benchmark_with_a_list_of_the_known_ones(dataset: Path) -> None:
    with pytest.raises(SystemExit, match=r"--sekonds=3 is unknown; there are --threads, --output, .*--seconds"):
        loader.main([f"data.path={dataset}", "--sekonds=3"])


def test_a_value_of_the_wrong_type_ends_a_benchmark_with_an_example(dataset: Path) -> None:
    with pytest.raises(SystemExit, match=r"--seconds=long has a value of the wrong type; give one such as 3\.0"):
        loader.main([f"data.path={dataset}", "--seconds=long"])
