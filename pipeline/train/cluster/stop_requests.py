"""Requests to stop a run or to save a checkpoint: signals to any rank, and files in the run's folder."""

import logging
import os
import time
from enum import IntEnum
from pathlib import Path

from pipeline.train.cluster import signals

log = logging.getLogger(__name__)

STOP_FILE, SAVE_FILE = "stop", "save"  # made with `touch` in the run's folder; removed once they are handled
_SECONDS_BETWEEN_READS = 2.0


class Request(IntEnum):
    """What is requested of a rank. The highest request of all ranks counts; all but SAVE stop the run too."""

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
        """Return the reason of a stop for end.json: "stop" for the file, else the signal's name."""
        return STOP_FILE if self is Request.STOP else self.name


class StopRequests:
    """Requests to this rank, polled once in each step. run_dir: None but on rank 0, as a shared disk may be slow."""

    def __init__(self, run_dir: Path | None = None) -> None:
        self._run_dir, self._last_read = run_dir, time.monotonic()
        self._to_remove: set[str] = set()  # files whose request was handled
        self._has_warned = False

    def poll(self) -> Request:
        """Return the request that this rank has now."""
        signum = signals.received()
        if signum is not None:
            return Request[signum.name]
        if self._run_dir is None or time.monotonic() - self._last_read < _SECONDS_BETWEEN_READS:
            return Request.NONE
        self._last_read = time.monotonic()
        try:
            self._remove_handled(self._run_dir)
            present = set(os.listdir(self._run_dir))
        except OSError as error:  # a file system that does not answer makes no request
            self._warn(error)
            return Request.NONE
        return Request.STOP if STOP_FILE in present else Request.SAVE if SAVE_FILE in present else Request.NONE

    def handled(self, request: Request) -> None:
        """Remove the file that made the request, if a file did; now, or at a later poll if the disk fails."""
        if self._run_dir is None or request not in (Request.SAVE, Request.STOP):
            return
        self._to_remove.add(STOP_FILE if request is Request.STOP else SAVE_FILE)
        try:
            self._remove_handled(self._run_dir)
        except OSError as error:
            self._warn(error)

    def _remove_handled(self, run_dir: Path) -> None:
        for name in sorted(self._to_remove):
            (run_dir / name).unlink(missing_ok=True)
            self._to_remove.remove(name)

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            log.warning("run.dir does not answer (%s): its files `stop` and `save` may be seen or removed late", error)
        self._has_warned = True
