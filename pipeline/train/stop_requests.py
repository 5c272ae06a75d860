"""Requests to stop a run or to save a checkpoint: signals to any rank, and files in the run's folder."""

import os
import time
from enum import IntEnum
from pathlib import Path

from pipeline import signals

STOP_FILE, SAVE_FILE = "stop", "save"  # made with `touch` in the run's folder; removed once they are handled
_SECONDS_BETWEEN_LOOKS = 2.0


class Request(IntEnum):
    """What a rank is asked to do. The highest request of all ranks counts; all but SAVE stop the run too."""

    NONE = 0
    SAVE = 1
    STOP = 2
    SIGINT = 3
    SIGUSR1 = 4
    SIGTERM = 5

    @property
    def stops(self) -> bool:
        return self >= Request.STOP

    @property
    def reason(self) -> str:
        """What end.json names as the reason of a stop: "stop" for the file, else the signal's name."""
        return STOP_FILE if self is Request.STOP else self.name


class StopRequests:
    """Polled by every rank once a step. run_dir: given to rank 0 only, as a look at a shared disk may take long."""

    def __init__(self, run_dir: Path | None = None) -> None:
        self._run_dir, self._last_look = run_dir, time.monotonic()

    def poll(self) -> Request:
        """Return what this rank is asked to do now."""
        signum = signals.received()
        if signum is not None:
            return Request[signum.name]
        if self._run_dir is None or time.monotonic() - self._last_look < _SECONDS_BETWEEN_LOOKS:
            return Request.NONE
        self._last_look = time.monotonic()
        present = set(os.listdir(self._run_dir))
        return Request.STOP if STOP_FILE in present else Request.SAVE if SAVE_FILE in present else Request.NONE

    def handled(self, request: Request) -> None:
        """Remove the file that made the request, if a file did."""
        if self._run_dir is not None and request in (Request.SAVE, Request.STOP):
            (self._run_dir / (STOP_FILE if request is Request.STOP else SAVE_FILE)).unlink(missing_ok=True)
