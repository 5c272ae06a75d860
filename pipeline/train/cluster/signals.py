"""Signals that request a stop: recorded at once, handled at the end of a step.

A command installs the handlers first, because a signal that comes before its handler kills the process.
"""

import faulthandler
import signal
import sys
from types import FrameType

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: stopped on request with a checkpoint; run the same command again to resume
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_HELD = (signal.SIGTERM, signal.SIGUSR1)
_received: list[signal.Signals] = []


def install() -> None:
    """Install handlers that record signals, and one for SIGUSR2 that prints the stacks of all threads."""
    for signum in _SIGNALS:
        signal.signal(signum, _note)
    faulthandler.register(signal.SIGUSR2, sys.__stderr__ or sys.stderr, all_threads=True)
    release()


def hold() -> None:
    """Block SIGTERM and SIGUSR1 until `release`, also in processes started in between, until these have a handler.

    Otherwise a signal to the whole job could kill a rank that is starting, and with it all other ranks.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release() -> None:
    """Unblock what `hold` blocks; a signal that came in between is handled now."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


def received() -> signal.Signals | None:
    """Return the first signal that came, if any."""
    return _received[0] if _received else None


def forget() -> None:
    """Forget signals that came, for a later training in this process."""
    _received.clear()


def _note(signum: int, frame: FrameType | None) -> None:
    if _received and signum == signal.SIGINT:
        raise KeyboardInterrupt  # a second Ctrl-C: end now, without a checkpoint
    _received.append(signal.Signals(signum))
