"""The configs of the project load, and hold only values that differ from the defaults."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.finetune import FinetuneConfig
from pipeline.config.load import load
from pipeline.config.schema import ConfigError, PretrainConfig, to_dict

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
REPEATS_DEFAULTS = "Every value is a default of pipeline/config/schema.py"  # a config with this comment may


def settings(values: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested values by their dotted names."""
    if not isinstance(values, dict):
        return {prefix[:-1]: values}
    return {name: value for key in values for name, value in settings(values[key], f"{prefix}{key}.").items()}


def schema_of(path: Path) -> type[PretrainConfig]:
    return FinetuneConfig if path.stem == "finetune" else PretrainConfig


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {
        "original",
        "medium",
        "small",
        "mini",
        "micro",
        "nano",
        "demo",
        "finetune",
    }


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_loads_and_all_its_values_are_used(path: Path) -> None:
    loaded = settings(to_dict(load(schema_of(path), [str(path)])))
    given = settings(yaml.safe_load(path.read_text()))
    assert given and {name: loaded[name] for name in given} == given


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_holds_only_values_that_differ_from_the_defaults(path: Path) -> None:
    defaults = settings(to_dict(schema_of(path)()))
    given = settings(yaml.safe_load(path.read_text()))
    repeated = {name for name, value in given.items() if defaults[name] == value}
    assert repeated == (set(given) if REPEATS_DEFAULTS in path.read_text() else set())


@pytest.mark.parametrize("text", ["1e999", "no", "0x1F", "007", "12:30", "2026-11-28", "'no'", "~x", "1_000"])
def test_text_in_a_yaml_file_is_read_as_it_is_written(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"run: {{dir: {text}, name: {text}}}\n")
    assert load(PretrainConfig, [str(tmp_path / "a.yaml")]).run.dir == text.strip("'")


@pytest.mark.parametrize("number", ["3", "0.5", "-1"])
def test_a_number_is_not_taken_as_true(number: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"softmax: {{affixes: {number}}}\n")
    for argument in (f"softmax.affixes={number}", str(tmp_path / "a.yaml")):
        with pytest.raises(ConfigError, match=f"softmax.affixes={number} must be true or false"):
            load(PretrainConfig, [argument])


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [("softmax.kind=full", "set softmax.affixes=false"), ("optimizer.name=adam", "use adam-adagrad, or muon")],
)
def test_what_shared_rows_exclude_is_refused(setting: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        load(PretrainConfig, ["fast", setting])
    load(PretrainConfig, ["fast", setting, "softmax.affixes=false"])


@pytest.mark.slow
def test_the_paper_s_config_starts_on_a_cpu(tmp_path: Path) -> None:
    """Start a training of the paper's 93.6 M parameters with few lanes and a small vocabulary."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"sentence {n} has a few words and the number {n % 7} .\n" for n in range(300)))
    elmo = [sys.executable, "-m", "pipeline.cli"]
    prep = [*elmo, "prep", f"input={text}", f"output={tmp_path / 'data'}", "heldout=2", "workers=1"]
    subprocess.run(prep, check=True, capture_output=True, timeout=60)
    overrides = [
        f"data.path={tmp_path / 'data'}", f"run.dir={tmp_path / 'run'}", "data.lanes=2", "data.workers=0",
        "softmax.num_samples=8", "train.max_steps=1", "train.accelerator=cpu", "wandb.mode=disabled",
    ]  # fmt: skip
    done = subprocess.run(
        [*elmo, "pretrain", str(ROOT / "configs/original.yaml"), *overrides],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "93,600,848 parameters" in done.stderr and "held-out perplexity" in done.stderr
