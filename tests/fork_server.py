"""A server that runs `elmo` in forks of a process with everything imported, so that a start need not import again.

Run as a program, it reads one JSON request a line from standard input and prints one line for each. The request
{"arguments": [...], "environment": {...}, "log": "PATH"} starts a process and prints its id. The request {"poll": ID}
prints the exit code of that process, or null while it runs. The arguments are those of `elmo`, or "-c", Python code
and its arguments.
"""

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]


class Fork:
    """A command in a process and a session of its own, with the methods of subprocess.Popen that tests need."""

    def __init__(self, arguments: tuple[str, ...], environment: dict[str, str], log: Path) -> None:
        request = {"arguments": arguments, "environment": environment, "log": str(log.absolute())}
        self.pid: int = _server().answer(request)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _server().answer({"poll": self.pid})
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            time.sleep(0.005)
        return code

    def send_signal(self, signum: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Server:
    """The server's process. It ends when its standard input closes, at the latest when this process ends.

    A lock lets one thread at a time send a request and read its answer.
    """

    def __init__(self) -> None:
        self.turn = threading.Lock()
        command = [sys.executable, "-m", "tests.fork_server"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "SLURM"))}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]
        atexit.register(self.process.communicate)  # closes its standard input, which ends it

    def answer(self, request: dict[str, Any]) -> Any:
        with self.turn:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())


_SERVERS: list[_Server] = []  # empty until the first fork


def _server() -> _Server:
    if not _SERVERS:
        _SERVERS.append(_Server())
    return _SERVERS[0]


def serve() -> None:
    for name in ("wandb", "pipeline.train.run", "pipeline.finetune.plan"):
        import_module(name)
    assert threading.active_count() == 1, "a fork would have none of the other threads, and their locks"
    while line := sys.stdin.readline():
        request = json.loads(line)
        if "poll" in request:
            print(json.dumps(_exit_code(request["poll"])), flush=True)
            continue
        print(_start(request), flush=True)


def _exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _start(request: dict[str, Any]) -> int:
    """Start a process and return its id, once the process has its log and its session.

    From then on it can be killed with all processes that it starts.
    """
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
            os.dup2(file, number)
        _run(request)
    os.close(log)
    while os.getpgid(pid) != pid:
        time.sleep(0.0005)
    return pid


def _run(request: dict[str, Any]) -> NoReturn:
    os.environ.clear()
    os.environ.update(request["environment"])
    arguments = request["arguments"]
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
        sys.exit(0)
    from pipeline.cli import main

    sys.argv[1:] = arguments
    sys.exit(main(arguments))


if __name__ == "__main__":
    serve()
