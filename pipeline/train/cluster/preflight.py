"""Check each node before a job trains on it, so that a bad node is excluded and does not end the job.

RUN_DIR/preflight/JOB.RESTART/NODE.json holds the result:
{"faults": [sentence, ...], "may_pass": true or false, "signal": name or null}.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from data_prep.dataset.files import DataError, UnreachableError, write_json
from data_prep.dataset.locations import local_path
from data_prep.dataset.open import open_dataset
from data_prep.dataset.staging import remove_damaged
from pipeline.config.finetune import FinetuneConfig
from pipeline.config.schema import ConfigError, PretrainConfig
from pipeline.train.cluster import signals
from pipeline.train.cluster.slurm_env import job_start

MIN_FREE_BYTES = 256 << 20  # of the node's temporary folder
MAX_CLOCK_SECONDS = 120.0  # behind the batch node's clock; a clock that is ahead looks like a slow start
NOW = "ELMO_NOW"  # the batch node's clock when it started the check, in seconds since the epoch


@dataclass
class NodeCheck:
    """The result of the checks on a node.

    faults: why it should not be used. may_pass: whether a later start may be without them. notes: what was fixed.
    """

    node: str
    faults: list[str] = field(default_factory=list)
    may_pass: bool = True
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        findings = [f"FAULT {fault}" for fault in self.faults] + self.notes
        return f"{self.node}: {'; '.join(findings) or 'fit'}"


def preflight(config: PretrainConfig) -> NodeCheck:
    """Check this node; return the result and write it where the batch script looks for it."""
    result = NodeCheck(os.environ.get("SLURMD_NODENAME") or socket.gethostname())
    checks: list[Callable[[PretrainConfig], list[str]]] = [_clock, _disk, _gpus, _data]
    for check in checks:
        try:
            result.notes += check(config)
        except _Fault as fault:
            result.faults.append(str(fault))
            result.may_pass &= isinstance(fault, _PassingFault)
    folder = local_path(config.run.dir, "run.dir") / "preflight" / _start_name()
    folder.mkdir(parents=True, exist_ok=True)
    signum = signals.received()
    written = {"faults": result.faults, "may_pass": result.may_pass, "signal": signum.name if signum else None}
    write_json(folder / f"{result.node}.json", written)
    return result


class _Fault(Exception):
    pass


class _PassingFault(_Fault):
    pass


def _start_name() -> str:
    """Return JOB.RESTART, as slurm/requeue.py names this start of the job."""
    start = job_start()
    return f"{start['job'] or 'no-job'}.{start['restart']}"


def _clock(config: PretrainConfig) -> list[str]:
    behind = float(os.environ.get(NOW, "0")) - time.time()
    if behind > MAX_CLOCK_SECONDS:
        raise _Fault(f"its clock is {behind:.0f} s behind the batch node's")
    return []


def _disk(config: PretrainConfig) -> list[str]:
    temporary = tempfile.gettempdir()
    try:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"\0" * 4096)
            file.flush()
        free = shutil.disk_usage(temporary).free
    except OSError as error:
        raise _Fault(f"{temporary} cannot be written ({error.strerror})") from None
    if free < MIN_FREE_BYTES:
        raise _Fault(f"{temporary} has {free >> 20} MiB free, fewer than {MIN_FREE_BYTES >> 20}")
    return []


def _gpus(config: PretrainConfig) -> list[str]:
    """Check that each process has a GPU, that each GPU multiplies matrices, and that NCCL sums over the GPUs."""
    if config.train.accelerator == "cpu":
        return []
    import torch

    from pipeline.model.backend.device import choose_device

    try:
        device = choose_device(config.train.accelerator)
    except ConfigError as error:
        raise _Fault(str(error)) from None
    if device == "cpu" and "SLURM_JOB_GPUS" not in os.environ:  # a GPU that Slurm gave to the job must be there
        return []
    found = torch.cuda.device_count()
    if found < config.train.devices:
        raise _Fault(f"it has {found} GPUs for train.devices={config.train.devices}")
    try:
        ones = [torch.ones(1024, 1024, device=f"cuda:{i}") for i in range(config.train.devices)]
        sums = [float((one @ one).mean()) for one in ones]
        if len(ones) > 1:
            torch.cuda.nccl.all_reduce(ones)
            sums += [float(one.mean()) * 1024 / len(ones) for one in ones]
    except RuntimeError as error:
        raise _Fault(f"its GPUs do not work: {str(error).splitlines()[0]}") from None
    if any(value != 1024.0 for value in sums):
        raise _Fault(f"its GPUs compute wrong sums: {sums}")
    return []


def _data(config: PretrainConfig) -> list[str]:
    """Check the sizes of the datasets' files and all bytes of their copies on this node; return notes on bad copies."""
    mixed = config.finetune.mix if isinstance(config, FinetuneConfig) else ""
    damaged = []
    try:
        for path in filter(None, (config.data.path, mixed)):
            dataset = open_dataset(path, cache_dir=config.data.cache_dir)
            for split in dataset.splits.values():
                with contextlib.suppress(IndexError):
                    split.chunk(0)[:1].copy()
            damaged += remove_damaged(dataset.index, stage) if (stage := config.data.staged_at) else []
    except (DataError, OSError) as error:
        kind = _PassingFault if isinstance(error, UnreachableError) else _Fault
        raise kind(f"it cannot read the dataset: {error}") from None
    return [f"{name} on this node was damaged and is copied again" for name in damaged]
