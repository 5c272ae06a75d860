"""Measure a command while it runs: memory of all its processes, disk space under a folder."""

import os
import resource
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_POLL_SECONDS = 0.1
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass
class Cost:
    """Cost of a command. peak_rss_bytes: sum over its processes; shared pages count once for each process.

    peak_private_bytes: the same without pages of mapped files, which the system can free at any time.
    largest_rss_bytes: the highest peak of one process, among all that this process ever waited for.
    cpu_seconds: of the processes that were waited for, such as those of a pool.
    """

    output: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0
    peak_private_bytes: int = 0
    largest_rss_bytes: int = 0
    peak_disk_bytes: int = 0


def run_watched(command: list[str], folder: Path | None = None, look: Callable[[float], None] | None = None) -> Cost:
    """Run the command to its end; return its standard output and its cost.

    folder: measure its disk use. look(seconds): called at every poll.
    """
    cost, begun, cpu = Cost(), time.perf_counter(), _children_cpu_seconds()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            memory = [_memory(pid) for pid in [process.pid, *descendants(process.pid)]]
            cost.peak_rss_bytes = max(cost.peak_rss_bytes, sum(resident for resident, _ in memory))
            cost.peak_private_bytes = max(cost.peak_private_bytes, sum(private for _, private in memory))
            if folder is not None:
                cost.peak_disk_bytes = max(cost.peak_disk_bytes, disk_bytes(folder))
            if look is not None:
                look(time.perf_counter() - begun)
            time.sleep(_POLL_SECONDS)
        assert process.stdout is not None
        cost.output = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    cost.largest_rss_bytes = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    cost.seconds, cost.cpu_seconds = time.perf_counter() - begun, _children_cpu_seconds() - cpu
    return cost


def descendants(pid: int) -> list[int]:
    """Return the ids of all descendants of a process at this moment."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
        children = [int(c) for t in threads for c in Path(f"/proc/{pid}/task/{t}/children").read_text().split()]
    except OSError:  # the process has ended
        return []
    return children + [below for child in children for below in descendants(child)]


def _memory(pid: int) -> tuple[int, int]:
    """Return (resident bytes, resident bytes that belong to no file)."""
    try:
        _, resident, of_files, *_ = map(int, Path(f"/proc/{pid}/statm").read_text().split())
    except OSError:
        return 0, 0
    return resident * _PAGE_BYTES, (resident - of_files) * _PAGE_BYTES


def disk_bytes(folder: Path) -> int:
    """Return the disk space of the files below a folder, in bytes."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name), follow_symlinks=False).st_blocks * 512
            except OSError:  # renamed or removed since it was listed
                continue
    return total


def _children_cpu_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system
