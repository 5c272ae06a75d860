"""Signals that request a stop: recorded at once, handled at the end of a step.

A command installs the handlers first, because a signal that comes before its handler kills the process.
"""

import faulthandler
import signal
import sys
from types import FrameType

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: stopped on request with a checkpoint; run the same command again to resume
_NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")
_SIGNALS = [signal.Signals[name] for name in _NAMES if hasattr(signal, name)]  # Windows has no SIGUSR1
_HELD = [signum for signum in _SIGNALS if signum != signal.SIGINT]
_received: list[signal.Signals] = []


def install() -> None:
    """Install handlers that record signals, and one for SIGUSR2 that prints the stacks of all threads."""
    for signum in _SIGNALS:
        signal.signal(signum, _note)
    if hasattr(signal, "SIGUSR2"):
        faulthandler.register(signal.SIGUSR2, sys.__stderr__ or sys.stderr, all_threads=True)
    release()


def hold() -> None:
    """Block SIGTERM and SIGUSR1 until `release`, also in processes started in between, until these have a handler.

    Otherwise a signal to the whole job could kill a rank that is starting, and with it all other ranks.
    """
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release() -> None:
    """Unblock what `hold` blocks; a signal that came in between is handled now."""
    if hasattr(signal, "pthread_sigmask"):
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
