"""The processes that torchrun started, read from the environment that it sets."""

import os

from pipeline.config.schema import ConfigError


def is_torchrun() -> bool:
    """Return whether torchrun started this process; also inside a Slurm job, where torchrun's ranks count."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def torchrun_shape(section: str = "train") -> list[str]:
    """Return train.nodes= and train.devices= as torchrun started the processes, nothing without torchrun.

    section: of the two options.

    Raises ConfigError if the machines run different numbers of processes, as Lightning would wait for ranks that are
    not there, or if a restart would not work: torchrun keeps one store for all starts, in which a rank may read the
    address of a rank of the start before (https://github.com/pytorch/pytorch/issues/135712).
    """
    if not is_torchrun():
        return []
    nodes, here, total = (int(os.environ[name]) for name in ("GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if nodes * here != total:
        raise ConfigError(
            f"torchrun started {total} processes on {nodes} machines, {here} of them here; give the same "
            "--nproc-per-node on every machine"
        )
    restarts, keeps_store = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"), "TORCHELASTIC_USE_AGENT_STORE"
    if total > 1 and int(restarts) > 0 and os.environ.get(keeps_store) == "True":
        raise ConfigError(
            f"--max-restarts={restarts} of torchrun works only with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its "
            "environment; set it on every machine, or leave --max-restarts out"
        )
    return [f"{section}.nodes={nodes}", f"{section}.devices={here}"]


def require_torchrun_shape(nodes: int, devices: int, section: str = "train") -> None:
    """Raise ConfigError if options name another number of processes than torchrun started."""
    total = int(os.environ["WORLD_SIZE"]) if is_torchrun() else nodes * devices
    if nodes * devices != total:
        raise ConfigError(
            f"{section}.nodes={nodes} x {section}.devices={devices} is not the {total} processes that torchrun "
            "started; leave both options out"
        )
