"""Measure how fast a config trains on this machine, by the first seconds of a real `elmo pretrain`."""

import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.config.schema import ConfigError
from pipeline.train.run_dir.tracking import read_metrics
from pipeline.train.trainer import launching_ranks

_NEVER = 1 << 40  # steps
_SECONDS_BETWEEN_READS = 0.1
# The run must not end, validate, save or be tracked anywhere. Every second step is logged: on a GPU a step whose result
# is logged waits for it.
_SETTINGS = [
    "wandb.mode=disabled", "checkpoint.mirror=", f"checkpoint.every_steps={_NEVER}", f"train.max_steps={_NEVER}",
    f"train.validate_every_steps={_NEVER}", "train.epochs=1000000000", "train.log_every_steps=2",
]  # fmt: skip


class CannotTrainError(ConfigError):
    """A config that cannot train here; the message is the sentence of `elmo pretrain`."""


def measure_speed(arguments: list[str], seconds: float) -> float:
    """Return tokens per second of `elmo pretrain`, over `seconds` or a little more after its first steps.

    Raises CannotTrainError if the training ends by itself. No process and no folder stays behind.
    """
    with TemporaryDirectory(prefix="elmo-plan-", ignore_cleanup_errors=True) as folder:
        run_dir, log = Path(folder) / "run", Path(folder) / "log.txt"
        command = [sys.executable, "-m", "pipeline.cli", "pretrain", *arguments, *_SETTINGS, f"run.dir={run_dir}"]
        # As a rank of this process, the training ends if this process is killed.
        with log.open("wb") as output, launching_ranks():
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            rate = _wait_for_rate(process, run_dir, seconds)
            if rate is None:
                raise CannotTrainError(_last_sentence(log, process.returncode))
            return rate
        finally:
            process.kill()
            process.wait()


def _wait_for_rate(process: "subprocess.Popen[bytes]", run_dir: Path, seconds: float) -> float | None:
    """Return tokens per second once they are known, None if the process has ended before."""
    while process.poll() is None:
        rate = steady_rate(read_metrics(run_dir), seconds)
        if rate is not None:
            return rate
        time.sleep(_SECONDS_BETWEEN_READS)
    return None


def steady_rate(metrics: dict[int, dict[str, float]], seconds: float) -> float | None:
    """Return tokens per second of all logged intervals but the first, None if these are shorter than `seconds`.

    The first steps are slower: they allocate memory, and on a GPU compile kernels.
    """
    logged = [values for _, values in sorted(metrics.items()) if values.get("speed/tokens_per_second")]
    tokens = [after["train/tokens"] - before["train/tokens"] for before, after in pairwise(logged)]
    spent = sum(n / each["speed/tokens_per_second"] for n, each in zip(tokens, logged[1:], strict=True))
    return sum(tokens) / spent if tokens and spent >= seconds else None


def _last_sentence(log: Path, code: int) -> str:
    """Return the last line that the training printed, without the name of the command."""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    how = f"was ended by signal {-code}, perhaps because memory ran out" if code < 0 else f"ended with exit code {code}"
    return lines[-1].removeprefix("elmo pretrain: ") if lines and code == 2 else f"the training {how}"
