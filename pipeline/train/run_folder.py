"""Whose a run's folder is: what a resumed run must share with its past, and who may write there now."""

import fcntl
import json
from pathlib import Path
from typing import IO, Any

from data_prep.files import write_bytes, write_json
from data_prep.shards import Dataset
from pipeline import __version__
from pipeline.config import ConfigError, PretrainConfig, to_dict

_SHOWN_CHARACTERS = 40


def run_identity(config: PretrainConfig, dataset: Dataset, vocab_size: int) -> dict[str, Any]:
    """What makes a run this run; everything else may change from one start to the next."""
    settings = to_dict(config)
    return {
        "dataset": dataset.fingerprint,
        "data.vocab_size": vocab_size,
        "data.lanes": config.data.lanes,
        "data.window": config.data.window,
        "run.seed": config.run.seed,
        "optimizer.name": config.optimizer.name,
        **{f"{part}.{key}": value for part in ("model", "softmax") for key, value in settings[part].items()},
    }


def check_identity(run_dir: Path, identity: dict[str, Any]) -> None:
    """Raises ConfigError that names what differs, if the folder holds another run."""
    path = run_dir / "run.json"
    if not path.exists():
        return
    before = json.loads(path.read_text())["identity"]
    names = sorted(k for k in before.keys() | identity.keys() if before.get(k) != identity.get(k))
    if names:
        changes = "; ".join(f"{n}: {_short(before.get(n))} there, {_short(identity.get(n))} now" for n in names)
        raise ConfigError(
            f"run.dir={run_dir} holds a run that cannot be gone on with ({changes}); "
            "give the old values, or another run.dir for another run"
        )


def claim(run_dir: Path, identity: dict[str, Any], config: PretrainConfig) -> IO[str]:
    """The folder is this process's until the lock returned is closed; it says whose run it is, and with what config.

    Raises ConfigError if another process of this machine holds it.
    """
    from omegaconf import OmegaConf

    run_dir.mkdir(parents=True, exist_ok=True)
    lock = (run_dir / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise ConfigError(f"run.dir={run_dir} is being trained by another process; wait for it or stop it") from None
    if not (run_dir / "run.json").exists():
        write_json(run_dir / "run.json", {"identity": identity, "version": __version__})
    write_bytes(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(to_dict(config))).encode())
    return lock


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS // 2] + "…"
