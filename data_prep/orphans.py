"""End a process when its parent ends, however that one ends."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time

_ORPHAN_SECONDS = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(parent: int | None = None) -> None:
    """Make this process end within seconds of its parent, even if the parent is killed with -9.

    parent: process id of the parent; None: as multiprocessing knows it. Linux ends this process with SIGKILL, which
    nothing can block, when the parent's thread that started this process ends: start it from the main thread.
    """
    if parent is None:
        process = multiprocessing.parent_process()
        assert process is not None and process.pid is not None
        parent = process.pid
    if not _kernel_ends_orphans():
        threading.Thread(target=_end_orphan, args=(parent,), daemon=True).start()
    elif os.getppid() != parent:  # the parent ended before the call above
        os._exit(1)


def _kernel_ends_orphans() -> bool:
    """Ask the kernel to kill this process when its parent ends; return whether the kernel will."""
    return sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0


def _end_orphan(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_ORPHAN_SECONDS)
    os._exit(1)
