"""A wandb sweep by docs/examples/sweep.yaml: the real `wandb sweep` and `wandb agent`, against a stand-in server."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.config.help import keys
from pipeline.config.schema import PretrainConfig
from tests.pages import ROOT
from tests.processes import clean_environment
from tests.train import runs
from tests.train.sweep_server import SWEEP, SweepServer

EXAMPLE = ROOT / "docs" / "examples" / "sweep.yaml"
TRIALS = [{"optimizer.lr": 0.001, "model.dropout": 0.1}, {"optimizer.lr": 0.004, "model.dropout": 0.0}]


def test_a_sweep_varies_only_options_of_elmo_pretrain() -> None:
    sweep = yaml.safe_load(EXAMPLE.read_text())
    assert set(sweep["parameters"]) <= {key.name for key in keys(PretrainConfig)}
    assert sweep["metric"]["name"] == "val/perplexity"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_agent_of_a_sweep_trains_each_trial_in_a_folder_of_its_own(dataset: Path, tmp_path: Path) -> None:
    sizes = [argument for argument in runs.TINY if not argument.startswith("wandb.")]
    config = EXAMPLE.read_text().replace("data/corpus", str(dataset))
    small = " ".join(f"'{argument}'" for argument in [*sizes, "train.max_steps=2", "train.validate_every_steps=2"])
    assert "elmo pretrain small" in config
    (tmp_path / "sweep.yaml").write_text(config.replace("pretrain small", f"pretrain small {small}"))
    write_elmo(tmp_path / "bin")
    with SweepServer(TRIALS) as server:
        environment = clean_environment() | server.environment | {"HOME": str(tmp_path), "WANDB_ENTITY": "tester"}
        environment["PATH"] = f"{tmp_path / 'bin'}:{environment['PATH']}"
        wandb(tmp_path, environment, "sweep", "sweep.yaml")
        wandb(tmp_path, environment, "agent", f"tester/elmo/{SWEEP}")
        assert set(server.runs) == {"trial1", "trial2"}
        for number, trial in enumerate(TRIALS, 1):
            run = server.runs[f"trial{number}"]
            assert run.summary["val/perplexity"] > 1 and run.exit_codes == [0] and run.fields["sweep"] == SWEEP
            used = yaml.safe_load((tmp_path / f"runs/sweep/trial{number}/config.yaml").read_text())
            assert (used["optimizer"]["lr"], used["model"]["dropout"]) == tuple(trial.values())


def write_elmo(folder: Path) -> None:
    """Write a command `elmo` that this Python runs."""
    folder.mkdir()
    (folder / "elmo").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m pipeline.cli "$@"\n')
    (folder / "elmo").chmod(0o755)


def wandb(folder: Path, environment: dict[str, str], *arguments: str) -> None:
    command = [sys.executable, "-m", "wandb", *arguments]
    environment = environment | {"WANDB_AGENT_DISABLE_FLAPPING": "true", "PWD": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, f"{os.fspath(folder)}\n{done.stdout}\n{done.stderr}"
