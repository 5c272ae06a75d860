"""The Slurm job step that this process is part of, as far as a config has to know."""

import os

from pipeline.config.schema import ConfigError

_SHELLS = ("bash", "interactive")  # jobs of these names are somebody's shell, for Lightning too


def is_batch_job() -> bool:
    """Whether slurm/pretrain.sbatch waits for this process. It reads RUN_DIR/end.json; codes but 0 are for crashes.

    A rank that ended with a code would have srun kill those that are not done.
    """
    return os.environ.get("ELMO_BATCH") == "1"


def job_shape() -> list[str]:
    """train.nodes= and train.devices= as srun started the processes; nothing where it did not.

    Raises ConfigError where a job has several tasks but this process was not started by srun: it would wait for ranks
    that nobody starts.
    """
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
