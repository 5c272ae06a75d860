"""The scripts of slurm/ as users call them: what they print before they submit, and what the jobs leave behind."""

import os
import re
import subprocess
from pathlib import Path

import h5py
import pytest

from tests.slurm.cluster import Cluster, Job, wait_until
from tests.slurm.training import ELMO, ROOT, Training
from tests.tasks.studies import write_study
from tests.tasks.training import arguments, make_files, with_elmo
from tests.train import runs

pytestmark = [pytest.mark.xdist_group("slurm")]
SCRIPTS = sorted((ROOT / "slurm").glob("*.s*"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_valid_bash_and_short(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert len(script.read_text().splitlines()) <= 80


def test_the_training_script_has_the_options_that_restarts_need() -> None:
    text = (ROOT / "slurm" / "pretrain.sbatch").read_text()
    for option in ("--signal=B:USR1@", "--requeue", "--open-mode=append", "--gpus-per-node=", "--time="):
        assert f"\n#SBATCH {option}" in text
    assert "--kill-on-bad-exit=1" in text and "SRUN_CPUS_PER_TASK" in text


def test_the_script_of_a_study_gives_each_job_of_an_array_its_part_of_the_runs(tmp_path: Path) -> None:
    (tmp_path / "elmo").write_text('#!/bin/sh\necho "$@"\n')
    script = ROOT / "slurm" / "study.sbatch"
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "   Command={script} a.yaml"\n')
    for program in ("elmo", "scontrol"):
        (tmp_path / program).chmod(0o755)
    environment = {**os.environ, "ELMO": str(tmp_path / "elmo"), "SLURM_JOB_ID": "1"}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    array = {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_COUNT": "4"}
    for added, printed in (({}, "study a.yaml dir=d"), (array, "study a.yaml dir=d part=2 parts=4")):
        command = ["bash", str(script), "a.yaml", "dir=d"]
        done = subprocess.run(command, env=environment | added, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == printed
    text = script.read_text()
    for option in ("--signal=B:USR1@", "--requeue", "--open-mode=append", "--gpus-per-node=", "--time="):
        assert f"\n#SBATCH {option}" in text


@pytest.mark.slow
def test_a_dry_run_prints_what_would_be_submitted_and_submits_nothing(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    printed = call(cluster, tmp_path, "submit.sh", "--dry-run", "--nodes=2", "--gpus-per-node=1", "--cpus-per-gpu=1",
                "configs/original.yaml", "data.path=d", "run.dir=r")  # fmt: skip
    assert "run      elmo pretrain configs/original.yaml data.path=d run.dir=r" in printed
    assert re.search(r"submit   sbatch --nodes=2 .* r/code/\S+/slurm/pretrain.sbatch configs/original.yaml", printed)
    assert "to start at" in printed  # sbatch --test-only accepted the options
    printed = call(cluster, tmp_path, "submit.sh", "--dry-run", "--gpus-per-node=1", "--cpus-per-gpu=1",
                "configs/finetune.yaml", "from=f", "data=d", "run.dir=r")  # fmt: skip
    assert "run      elmo finetune configs/finetune.yaml from=f data=d run.dir=r" in printed
    assert re.search(r"submit   sbatch .* r/code/\S+/slurm/finetune.sbatch configs/finetune.yaml", printed)
    printed = call(cluster, tmp_path, "prep.sh", "--dry-run", "--tasks=3", "input=corpus/*.txt", "output=data/corpus//")
    assert "/data/corpus.code/" in printed, "beside the dataset, whose folder holds nothing else"
    assert printed.count("sbatch --parsable") == 3 and "--array=0-2" in printed
    wrong = call(cluster, tmp_path, "submit.sh", "configs/original.yaml", "data.lane=8", "run.dir=r", check=False)
    assert "there is no key data.lane; did you mean data.lanes?" in wrong and "Submitted" not in wrong
    wrong = call(cluster, tmp_path, "prep.sh", "output=data/corpus", check=False)
    assert "input= is missing" in wrong and "submitted" not in wrong
    assert list(tmp_path.iterdir()) == [tmp_path / "configs"]


@pytest.mark.slow
def test_a_job_runs_the_code_of_its_submission(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data:\n  lanes: 8\n")
    printed = call(cluster, tmp_path, "submit.sh", "--hold", "mine.yaml", "data.path=d", "run.dir=r")
    (tmp_path / "mine.yaml").unlink()
    job = Job(cluster, int(printed.split()[-1]))
    (code,) = (tmp_path / "r" / "code").iterdir()
    assert job.facts()["Command"] == str(code / "slurm" / "pretrain.sbatch")
    assert (code / "ARGUMENTS").read_text() == f"{code}/submitted/mine.yaml\0data.path=d\0run.dir=r\0"
    assert (code / "submitted" / "mine.yaml").exists() and (code / "pipeline" / "cli.py").exists()
    job.cancel()


@pytest.mark.slow
def test_a_killed_rank_leaves_no_loader_process_on_its_node(cluster: Cluster, tmp_path: Path) -> None:
    training = Training(cluster, runs.make_dataset(tmp_path / "text"), tmp_path)
    training.submit("--nodes=1", settings=("data.workers=2",))
    training.wait_for_step(5)
    node, rank = training.rank(0)
    before = set(training.processes(node))
    assert len(before) == 3  # the rank and its two loader processes
    cluster.run(node, "kill", "-KILL", str(rank))
    wait_until(lambda: not before & set(training.processes(node)), "all have ended", training.log)
    assert training.job is not None
    training.job.cancel()


@pytest.mark.slow
def test_a_fine_tuning_runs_as_a_job(cluster: Cluster, tmp_path: Path) -> None:
    dataset = runs.make_dataset(tmp_path / "text")
    runs.train_here(dataset, tmp_path / "source", "train.max_steps=2")
    shape = ["--nodes=1", "--gpus-per-node=0", "--mincpus=1", "--time=120"]
    pairs = [f"from={tmp_path}/source", f"data={dataset}", f"run.dir={tmp_path}/run", "data.lanes=8", "data.window=10"]
    job = cluster.submit(
        *shape, f"--output={tmp_path}/job-%j.log", "slurm/finetune.sbatch", "configs/finetune.yaml", *pairs,
        "train.max_steps=4", "train.accelerator=cpu", "train.threads=1", "wandb.mode=disabled", cwd=ROOT,
        environment={"ELMO": str(ELMO)},
    )  # fmt: skip
    wait_until(job.has_ended, "it is fine-tuned", lambda: logs(tmp_path))
    assert job.state == "COMPLETED", logs(tmp_path)
    assert (tmp_path / "run/code").is_dir() and "bits a character" in (tmp_path / "run/logs/rank-000.log").read_text()


@pytest.mark.slow
def test_a_task_at_its_time_limit_is_queued_again_and_resumed(cluster: Cluster, tmp_path: Path) -> None:
    shape = ["--nodes=1", "--gpus-per-node=0", "--ntasks-per-node=2", "--cpus-per-task=1", "--time=120"]
    folder = make_files(tmp_path)
    job = cluster.submit(
        *shape, f"--output={tmp_path}/job-%j.log", "slurm/task.sbatch", "ner", *arguments(folder, "run"),
        *with_elmo(folder), "training.max_epochs=40", cwd=ROOT, environment={"ELMO": str(ELMO)},
    )  # fmt: skip
    wait_until(lambda: (folder / "run/last.ckpt").exists() or job.has_ended(), "it is saved", lambda: logs(tmp_path))
    cluster.run("login", "scancel", "--signal=USR1", "--batch", str(job.id))
    wait_until(lambda: job.restarts == 1 or job.has_ended(), "it is queued again", lambda: logs(tmp_path))
    wait_until(job.has_ended, "it is trained", lambda: logs(tmp_path))
    assert (job.state, job.restarts) == ("COMPLETED", 1), logs(tmp_path)
    assert "which is saved; run the same command again to resume" in logs(tmp_path)
    assert (folder / "run/model/config.json").exists()


@pytest.mark.slow
def test_a_job_array_does_the_runs_of_a_study_and_resumes_after_a_time_limit(cluster: Cluster, tmp_path: Path) -> None:
    study = [*write_study(tmp_path, epochs=40)[:2], "processes=1"]
    shape = ["--array=1-2", "--gpus-per-node=0", "--cpus-per-task=1", "--time=120"]
    job = cluster.submit(
        *shape, f"--output={tmp_path}/job-%a.log", "slurm/study.sbatch", *study, cwd=ROOT,
        environment={"ELMO": str(ELMO)},
    )  # fmt: skip
    saved = tmp_path / "study" / "ner"
    wait_until(lambda: bool(list(saved.glob("*/last.ckpt"))), "a run has saved", lambda: logs(tmp_path))
    cluster.run("login", "scancel", "--signal=USR1", "--batch", str(job.id))
    wait_until(lambda: len(list(saved.glob("*/result.json"))) == 4, "all runs are done", lambda: logs(tmp_path))
    assert "run the same command again to resume" in "".join(path.read_text() for path in saved.glob("*/log.txt"))


@pytest.mark.slow
def test_a_job_array_prepares_the_same_dataset_as_one_process(cluster: Cluster, tmp_path: Path) -> None:
    expected = runs.make_dataset(tmp_path / "alone")
    texts = tmp_path / "alone"
    pairs = [f"input={texts}/train.txt", f"heldout_input={texts}/heldout.txt", f"output={tmp_path}/dataset"]
    printed = call(cluster, tmp_path, "prep.sh", "--tasks=2", "--cpus-per-task=1", *pairs, "shard_tokens=2000")
    last = Job(cluster, int(printed.split()[-1]))
    index = tmp_path / "dataset" / "index.json"
    wait_until(lambda: index.exists() or last.has_ended(), "the dataset is there", lambda: logs(tmp_path))
    assert index.exists(), logs(tmp_path)
    names = {path.name for path in expected.glob("*.tar")}
    assert names == {path.name for path in index.parent.glob("*.tar")}, logs(tmp_path)


@pytest.mark.slow
def test_a_job_array_and_a_last_job_write_the_vectors_of_a_text(cluster: Cluster, tmp_path: Path) -> None:
    dataset = runs.make_dataset(tmp_path / "text")
    runs.train_here(dataset, tmp_path / "run", "train.max_steps=1")
    pairs = [f"checkpoint={tmp_path}/run", f"input={tmp_path}/text/heldout.txt", f"output={tmp_path}/v.h5", "threads=1"]
    options = ["--gpus-per-node=0", "--cpus-per-task=1", f"--chdir={tmp_path}", f"--output={tmp_path}/embed-%j.log"]
    script = str(ROOT / "slurm" / "embed.sbatch")
    environment = {"ELMO": str(ELMO)}
    first = cluster.submit("--array=0-1", *options, script, *pairs, environment=environment)
    then = cluster.submit(f"--dependency=afterok:{first.id}", *options, script, *pairs, environment=environment)
    wait_until(then.has_ended, "the file is written", lambda: logs(tmp_path))
    assert then.state == "COMPLETED", logs(tmp_path)
    with h5py.File(tmp_path / "v.h5") as file:
        assert len([key for key in file if key.isdigit()]) == 100


def call(cluster: Cluster, folder: Path, script: str, *arguments: str, check: bool = True) -> str:
    """Call a script of slurm/ on the login node in `folder`; return what it printed."""
    command = ["bash", str(ROOT / "slurm" / script), *arguments]
    return cluster.run("login", *command, cwd=folder, environment={"ELMO": str(ELMO)}, check=check)


def logs(folder: Path) -> str:
    return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(folder.glob("*.log")))
