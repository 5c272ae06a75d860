"""What is looked at on each node before a job trains there, so that a bad node is left out instead of ending the job.

RUN_DIR/preflight/JOB.RESTART/NODE.json holds the verdict: {"faults": [sentence, ...], "signal": name or null}.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from data_prep.dataset.files import DataError, write_json
from data_prep.dataset.locations import local_path
from data_prep.dataset.open import open_dataset
from data_prep.dataset.staging import remove_damaged
from pipeline.config.finetune import FinetuneConfig
from pipeline.config.schema import ConfigError, PretrainConfig
from pipeline.train.cluster import signals

MIN_FREE_BYTES = 256 << 20  # of the node's temporary folder
MAX_CLOCK_SECONDS = 120.0  # behind the batch node's; how far ahead cannot be told from a slow start
NOW = "ELMO_NOW"  # seconds since the epoch, as the batch node had it when it started all of this


@dataclass
class Verdict:
    """faults: why this node should not be used. notes: what was found and mended."""

    node: str
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = [f"FAULT {fault}" for fault in self.faults] + self.notes
        return f"{self.node}: {'; '.join(said) or 'fit'}"


def preflight(config: PretrainConfig) -> Verdict:
    """This node's verdict, also written where the batch script looks for it."""
    verdict = Verdict(os.environ.get("SLURMD_NODENAME") or socket.gethostname())
    checks: list[Callable[[PretrainConfig], list[str]]] = [_clock, _disk, _gpus, _data]
    for check in checks:
        try:
            verdict.notes += check(config)
        except _Fault as fault:
            verdict.faults.append(str(fault))
    folder = local_path(config.run.dir, "run.dir") / "preflight" / _incarnation()
    folder.mkdir(parents=True, exist_ok=True)
    signum = signals.received()
    write_json(
        folder / f"{verdict.node}.json", {"faults": verdict.faults, "signal": signum.name if signum else None}
    )  # fmt: skip
    return verdict


class _Fault(Exception):
    pass


def _incarnation() -> str:
    return f"{os.environ.get('SLURM_JOB_ID', 'no-job')}.{os.environ.get('SLURM_RESTART_COUNT', '0')}"


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
    """As many GPUs as processes; each multiplies matrices, and NCCL adds up over them."""
    if config.train.accelerator == "cpu":
        return []
    import torch

    from pipeline.model.backend.choose_device import choose_device

    try:
        device = choose_device(config.train.accelerator)
    except ConfigError as error:
        raise _Fault(str(error)) from None
    if device == "cpu" and "SLURM_JOB_GPUS" not in os.environ:  # what Slurm gave to the job must be there
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
    """Each dataset's files are there in their sizes; copies on this node are the dataset's to the byte."""
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
        raise _Fault(f"it cannot read the dataset: {error}") from None
    return [f"{name} on this node was damaged and is copied again" for name in damaged]
