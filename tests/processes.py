"""Real processes: the command started, watched and killed, and a function whose process is killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fork_server import ROOT, Fork

WAIT_SECONDS = 240  # never reached on a sound run, however busy the machine


class Process:
    """`elmo COMMAND` in a session of its own, so that it can be killed with all that it started.

    forked: in a fork that need not import (fork_server.py), which holds for a command of one process only, as
    Lightning starts further ranks by the command line; environment variables that libraries read as they are imported
    do not count there.
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
        """Whether it came true before the process ended."""
        deadline = time.monotonic() + WAIT_SECONDS
        while not true():
            if self.popen.poll() is not None:
                return bool(true())
            assert time.monotonic() < deadline, f"nothing happens:\n{self.output()}"
            time.sleep(0.001)
        return True


def clean_environment() -> dict[str, str]:
    """No launcher's or wandb's variables, which Lightning leaves in a process that has trained."""
    launcher = {"LOCAL_RANK", "RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    return {k: v for k, v in os.environ.items() if k not in launcher and not k.startswith(("WANDB", "SLURM"))}


def killed_at(number: int, what: Callable[[], Any]) -> bool:
    """Do it in a process that is killed as it puts its number-th file in place; whether it came so far."""
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
