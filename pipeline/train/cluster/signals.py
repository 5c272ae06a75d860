"""Signals that ask a run to stop: noted at once, obeyed at the end of a step.

Installed first thing in a command, because a signal that comes before its handler kills the process.
"""

import faulthandler
import signal
import sys
from types import FrameType

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: stopped on request with a checkpoint; run the same command again to go on
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_HELD = (signal.SIGTERM, signal.SIGUSR1)
_received: list[signal.Signals] = []


def install() -> None:
    for signum in _SIGNALS:
        signal.signal(signum, _note)
    faulthandler.register(
        signal.SIGUSR2, sys.__stderr__ or sys.stderr, all_threads=True
    )  # a hung process shows its stacks
    release()


def hold() -> None:
    """SIGTERM and SIGUSR1 wait until `release`, also in processes started meanwhile, until they have a handler.

    Without this a signal to the whole job could kill a rank that is just starting, and the others with it.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)


def received() -> signal.Signals | None:
    """The first signal that came, if any did."""
    return _received[0] if _received else None


def forget() -> None:
    """What came is over: a later training of this process starts without it."""
    _received.clear()


def _note(signum: int, frame: FrameType | None) -> None:
    if _received and signum == signal.SIGINT:
        raise KeyboardInterrupt  # asked twice at a keyboard: end now, without a checkpoint
    _received.append(signal.Signals(signum))
