"""Run commands in real processes that can be watched and killed, and functions in a process that is killed midway."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fork_server import ROOT, Fork

WAIT_SECONDS = 240  # never reached when all is well, however busy the machine is


class Process:
    """`elmo COMMAND` in a session of its own, so that it can be killed with all processes that it starts.

    forked: start it as a fork of a process that has imported everything (fork_server.py). This works only for a command
    of one process, because Lightning starts further ranks through the command line. Environment variables that
    libraries read when they are imported have no effect in a fork.
    """

    def __init__(
        self, *command: str, log: Path, environment: dict[str, str] | None = None, preexec: Any = None,
        module: str = "pipeline.cli", forked: bool = False,
    ) -> None:  # fmt: skip
        self.log = log
        self.popen: subprocess.Popen[bytes] | Fork
        if forked:
            assert preexec is None and module == "pipeline.cli"
            self.popen = Fork(command, clean_environment() | (environment or {}), log)
            return
        with log.open("wb") as file:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", module, *command], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=preexec,
                env=clean_environment() | (environment or {}),
            )  # fmt: skip

    def wait(self) -> int:
        try:
            return self.popen.wait(WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.signal_group(9)
            raise AssertionError(f"hangs:\n{self.output()}") from None

    def signal_group(self, signum: int) -> None:
        os.killpg(self.popen.pid, signum)

    def kill_group(self) -> None:
        self.signal_group(9)
        self.popen.wait()

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, true: Callable[[], Any]) -> bool:
        """Wait until `true()` or the end of the process; return whether it became true."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not true():
            if self.popen.poll() is not None:
                return bool(true())
            assert time.monotonic() < deadline, f"nothing happens:\n{self.output()}"
            time.sleep(0.001)
        return True


def clean_environment() -> dict[str, str]:
    """Return the environment without variables of launchers and wandb, which Lightning leaves after a training."""
    launcher = {"LOCAL_RANK", "RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    return {k: v for k, v in os.environ.items() if k not in launcher and not k.startswith(("WANDB", "SLURM"))}


def killed_at(number: int, what: Callable[[], Any]) -> bool:
    """Run `what` in a child that kills itself before its number-th os.replace; return whether it was killed."""
    child = os.fork()
    if child == 0:
        replace, left = os.replace, [number]

        def kill_or_replace(*names: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*names)

        os.replace = kill_or_replace  # type: ignore[assignment]
        try:
            what()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])
