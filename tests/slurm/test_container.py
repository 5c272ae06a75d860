"""A job with ELMO_CONTAINER, where a stand-in for apptainer runs the command and records its arguments."""

import sys
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.training import ROOT, Training
from tests.train import runs

pytestmark = [pytest.mark.xdist_group("slurm"), pytest.mark.slow]
APPTAINER = f"""#!/bin/sh
echo "$PWD $*" >>"$0.log"
while [ "$1" != image.sif ]; do shift; done
shift 2
exec {sys.executable} -m pipeline.cli "$@"
"""


def test_a_training_in_a_container_is_checked_trained_and_resumed(cluster: Cluster, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "apptainer").write_text(APPTAINER)
    (programs / "apptainer").chmod(0o755)
    dataset = runs.make_dataset(tmp_path / "text")
    run_dir = tmp_path / "run"
    environment = {
        "ELMO_CONTAINER": "image.sif",
        "ELMO_CONTAINER_MOUNTS": str(dataset),
        "PATH": f"{programs}:/usr/bin:/bin",
    }
    training = Training(cluster, dataset, tmp_path)
    training.job = cluster.submit(
        "--nodes=1", "--gpus-per-node=0", "--mincpus=1", "--time=120", f"--output={tmp_path}/job-%j.log",
        "slurm/pretrain.sbatch", *runs.arguments(dataset, run_dir, "train.max_steps=3"), cwd=ROOT,
        environment=environment,
    )  # fmt: skip
    wait_until(training.job.has_ended, "it is trained", training.log)
    assert training.job.state == "COMPLETED" and runs.saved_steps(run_dir)[-1] == 3, training.log()
    preflight, pretrain = (programs / "apptainer.log").read_text().splitlines()
    for call, command in ((preflight, "preflight"), (pretrain, "pretrain")):
        assert call.startswith(
            f"{ROOT} exec --nv --pwd {ROOT} --bind {ROOT}:{ROOT},{run_dir}:{run_dir},{run_dir}/code/"
        )
        assert f",{dataset}:{dataset} image.sif elmo {command} " in call
