"""elmo plan: the table, its notes and command, mistakes, and real measurements of tiny configs."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.budget.estimate import Comparison, Estimate, compare
from pipeline.budget.law import effective_tokens
from pipeline.budget.speed import steady_rate
from pipeline.cli import main
from pipeline.config.commands import BudgetConfig
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from tests.budget.laws import law, write_law
from tests.train import runs


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.make_dataset(tmp_path_factory.mktemp("text"))


def estimate(config: str, parameters: int, tokens: int, new_tokens: int = 10_000_000) -> Estimate:
    prediction, arguments = law().predict(parameters, tokens), [config, "fast", "data.path=a b", "train.max_steps=7"]
    is_new = not law().covers(parameters, tokens)
    return Estimate(config, arguments, parameters, 1000.0, tokens, new_tokens, prediction, is_new)


def test_the_table_recommends_the_lowest_perplexity_and_quotes_its_command() -> None:
    two = [estimate("nano", 200_000, 3_600_000), estimate("mini", 3_000_000, 3_600_000)]
    shown = str(Comparison(law(), two, {"small": "no memory"})).splitlines()
    assert shown[0].split() == [
        "config",
        "LSTM",
        "parameters",
        "tokens/s",
        "hours",
        "tokens",
        "epochs",
        "perplexity",
        "range",
    ]
    assert shown[1].split()[:8] == ["nano", "200,000", "1,000", "1", "3.6", "M", "0.36", "185"]
    assert shown[-2:] == ["Best: mini", "Next: elmo pretrain mini fast 'data.path=a b' train.max_steps=7"]
    assert "small cannot train: no memory" in shown
    assert not [line for line in shown if "extrapolated" in line or "repeat the text" in line]
    assert [
        line for line in shown if line.startswith("perplexities are those of made up with 60,000 words; on another")
    ]


def test_extrapolation_and_repeated_text_are_noted() -> None:
    shown = str(Comparison(law(), [estimate("small", 13_600_000, 20_000_000)], {}))
    assert (
        "* extrapolated: the law was fitted to runs of 0.2 M to 3.0 M LSTM parameters and 0.5 M to 4.0 M tokens"
        in shown
    )
    assert shown.splitlines()[1].split()[6] == "2.00" and "epochs above 1 repeat the text" in shown


def test_the_rate_leaves_out_the_first_interval_and_waits_for_its_seconds() -> None:
    metrics = {
        2: {"train/tokens": 200.0, "speed/tokens_per_second": 10.0},
        4: {"train/tokens": 400.0, "speed/tokens_per_second": 100.0},
        6: {"train/tokens": 600.0, "speed/tokens_per_second": 400.0},
    }
    assert steady_rate(metrics, 2.5) == pytest.approx(400 / 2.5)
    assert steady_rate(metrics, 2.6) is None
    assert steady_rate({2: metrics[2]}, 0.0) is None and steady_rate({}, 0.0) is None


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["hours=0"], "hours=0.0 must be positive"),
        (["hours=-1"], "hours=-1.0 must be positive"),
        (["hours=soon"], "hours='soon' must be a number ("),
        ([], "hours= is missing: give the hours of training, as in hours=8"),
        (["hours=1", "configs=[]"], "configs=[] names no config"),
        (["hours=1", "configs=huge"], "configs=huge is no .yaml file and no config of this package"),
        (["hours=1", "configs=absent.yaml"], "absent.yaml: no such config file"),
        (["hours=1", "seconds=0"], "seconds=0.0 must be positive"),
        (["hours=1", "data.path="], "data.path= is missing"),
        (["hours=1", "law=absent.json"], "absent.json: there is no law"),
        (["hours=1", "minutes=3"], "there is no key minutes"),
        (["hours=1", "train.nodes=2"], "train.nodes=2: the speed is measured on one machine"),
        (["plan.yaml"], "hours=8.0 stands in a YAML file; give hours= on the command line"),
    ],
    ids=str,
)
def test_a_mistake_is_one_sentence(
    pairs: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_law(Path("made-up.json"))
    Path("plan.yaml").write_text("hours: 8\n")
    assert main(["plan", "data.path=absent", "law=made-up.json", *pairs]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith(f"elmo plan: {message}") and err.count("\n") == 1, err


def test_a_folder_that_is_no_dataset_is_refused_before_anything_is_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_law(tmp_path / "law.json")
    assert main(["plan", f"data.path={tmp_path}", f"law={tmp_path / 'law.json'}", "hours=1"]) == 2
    err = capfd.readouterr().err
    assert "measuring" not in err and err.count("\n") == 1


def tiny(folder: Path, name: str, cells: int) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(
        f"model: {{filters: [[1, 8], [2, 16]], num_highway: 1, lstm_dim: {cells}, projection_dim: 8}}\n"
        "softmax: {num_samples: 64}\n"
    )
    return path


def test_steps_and_folder_that_the_user_gives_are_kept(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.budget.estimate.measure_speed", lambda arguments, seconds: 1000.0)
    own = [f"configs=[{tiny(tmp_path, 'narrow', 16)}]", f"law={write_law(tmp_path / 'law.json')}", "hours=1"]
    assert main(["plan", f"data.path={dataset}", *own, "train.max_steps=5", "run.dir=runs/elmo"]) == 0
    config = load(PretrainConfig, capfd.readouterr().out.splitlines()[-1].split()[3:])
    assert (config.train.max_steps, config.run.dir) == (5, "runs/elmo")


def compared(dataset: Path, tmp_path: Path, *pairs: str) -> Estimate:
    """Return the estimate of a config of 16 cells whose speed is 1000 tokens/s."""
    own = [f"configs=[{tiny(tmp_path, 'narrow', 16)}]", f"law={write_law(tmp_path / 'law.json')}"]
    arguments = [*own, f"data.path={dataset}", *pairs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.budget.estimate.measure_speed", lambda arguments, seconds: 1000.0)
        (found,) = compare(load(BudgetConfig, arguments), arguments).estimates
    return found


def test_the_hours_bound_the_tokens_and_repeats_count_for_less(dataset: Path, tmp_path: Path) -> None:
    few = compared(dataset, tmp_path, "hours=0.001", "train.epochs=9")
    assert few.tokens == 5 * 640 == 640 * int(3.6 * 1000 / 640)
    assert few.prediction == law().predict(few.parameters, few.tokens), "nothing is repeated"
    many = compared(dataset, tmp_path, "hours=1", "train.epochs=9")
    assert many.tokens == 640 * round(9 * (many.new_tokens // 640))
    assert many.prediction == law().predict(many.parameters, effective_tokens(many.tokens, many.new_tokens))
    assert many.prediction.perplexity > law().predict(many.parameters, many.tokens).perplexity


@pytest.mark.parametrize(
    ("sizes", "tokens", "is_extrapolated"),
    [((1, 1), (3000, 9000), False), ((2, 3), (3000, 9000), True), ((1, 1), (4000, 9000), True)],
)
def test_what_lies_outside_of_the_laws_runs_is_an_extrapolation(
    dataset: Path,
    tmp_path: Path,
    sizes: tuple[int, int],
    tokens: tuple[int, int],
    is_extrapolated: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, made_up = compared(dataset, tmp_path, "hours=0.001"), law()
    there = [
        replace(run, parameters=size * found.parameters, tokens=number)
        for run, size, number in zip(made_up.runs, sizes, tokens, strict=True)
    ]
    monkeypatch.setattr("pipeline.budget.estimate.read_law", lambda path: replace(made_up, runs=there))
    found = compared(dataset, tmp_path, "hours=0.001")
    assert found.tokens == 3200 and found.is_extrapolated == is_extrapolated


def test_less_than_a_step_is_one_sentence(dataset: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = [f"configs=[{tiny(tmp_path, 'narrow', 16)}]", f"law={write_law(tmp_path / 'law.json')}", "hours=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.budget.estimate.measure_speed", lambda arguments, seconds: 1000.0)
        assert main(["plan", f"data.path={dataset}", *own, "train.epochs=0.05"]) == 2
    assert "train.epochs=0.05 is less than a step of this text" in capfd.readouterr().err


@pytest.mark.slow
def test_two_configs_are_measured_and_the_recommended_command_can_be_loaded(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    configs = [tiny(tmp_path, "narrow", 16), tiny(tmp_path, "wide", 64)]
    configs.append(tmp_path / "greedy.yaml")
    configs[-1].write_text("softmax: {num_samples: 1000000}\n")
    pairs = [f"data.path={dataset}", "train.accelerator=cpu", "data.workers=0", "train.threads=1", "train.epochs=3"]
    own = [f"configs=[{','.join(map(str, configs))}]", "seconds=0.1", f"law={write_law(tmp_path / 'law.json')}"]
    assert main(["plan", *pairs, *own, "hours=1"]) == 0
    out, err = capfd.readouterr()
    assert [line.split()[1] for line in err.splitlines()] == list(map(str, configs))
    narrow, wide = (next(line for line in out.splitlines() if f"{name}.yaml " in line) for name in ("narrow", "wide"))
    parameters, rate, _, tokens, unit, epochs = narrow.split()[1:7]
    assert int(rate.replace(",", "")) > 1 and unit == "M" and 2 < float(epochs) <= 3
    assert 0 < float(tokens) < 0.014 and int(parameters.replace(",", "")) < int(wide.split()[1].replace(",", ""))
    assert "greedy.yaml cannot train: softmax.num_samples=1000000 is more than the vocabulary of" in out
    command = out.splitlines()[-1].split()
    assert command[:4] == ["Next:", "elmo", "pretrain", str(configs[1])]
    config = load(PretrainConfig, command[3:])
    assert (config.data.lanes, config.run.dir, config.train.epochs) == (32, "runs/wide", 3.0)
    assert config.train.max_steps is not None and 0 < config.train.max_steps <= 3 * 4500 // 640
    assert not list((tmp_path / "temporary").iterdir()), "a folder of a measurement was left behind"


@pytest.mark.slow
def test_a_killed_plan_leaves_no_training_behind(dataset: Path, tmp_path: Path) -> None:
    own = [f"configs=[{tiny(tmp_path, 'narrow', 16)}]", "seconds=1000", f"law={write_law(tmp_path / 'law.json')}"]
    pairs = [f"data.path={dataset}", "train.accelerator=cpu", "hours=1", "train.threads=1", *own]
    command = [sys.executable, "-m", "pipeline.cli", "plan", *pairs]
    process = subprocess.Popen(command, env=os.environ | {"TMPDIR": str(tmp_path)})
    while not list(tmp_path.glob("elmo-plan-*/run/metrics.jsonl")) and process.poll() is None:
        time.sleep(0.05)
    started = psutil.Process(process.pid).children(recursive=True)
    assert started
    process.send_signal(signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert not alive
