"""The Slurm job step that this process belongs to, read from the environment."""

import os
from typing import TypedDict

from pipeline.config.schema import ConfigError
from pipeline.train.cluster.torchrun_env import is_torchrun, torchrun_shape

_SHELLS = ("bash", "interactive")  # Lightning too takes a job of such a name for a shell


def is_batch_job() -> bool:
    """Return whether slurm/pretrain.sbatch started this process and reads RUN_DIR/end.json after the process ends.

    Such a process exits with a code other than 0 only for a crash: srun kills all ranks after one ends with a code.
    """
    return os.environ.get("ELMO_BATCH") == "1"


class JobStart(TypedDict):
    """A start of a Slurm job: the job's id, its restarts so far, and the step of this process; None without Slurm."""

    job: str | None
    restart: int
    step: str | None


def job_start() -> JobStart:
    """Return which start of which job this process belongs to."""
    restart = int(os.environ.get("SLURM_RESTART_COUNT", 0))
    return JobStart(job=os.environ.get("SLURM_JOB_ID"), restart=restart, step=os.environ.get("SLURM_STEP_ID"))


def job_shape() -> list[str]:
    """Return train.nodes= and train.devices= as torchrun or srun started the processes, nothing without either.

    Raises ConfigError if a job has several tasks but srun did not start this process: it would wait for ever for the
    other ranks.
    """
    if is_torchrun():
        return torchrun_shape()
    tasks = int(os.environ.get("SLURM_NTASKS", "1"))
    if "SLURM_JOB_ID" not in os.environ or os.environ.get("SLURM_JOB_NAME") in _SHELLS:
        return []
    if "SLURM_STEP_ID" not in os.environ:
        if tasks > 1:
            raise ConfigError(f"this job has {tasks} tasks, but elmo was not started by srun; write srun elmo ...")
        return []
    nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", "1")))
    if tasks % nodes or (tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ):
        raise ConfigError(
            f"{tasks} tasks on {nodes} nodes: give the number on each with --ntasks-per-node, not --ntasks"
        )
    return [f"train.nodes={nodes}", f"train.devices={tasks // nodes}"]
