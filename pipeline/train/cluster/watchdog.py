"""A thread that ends a process which no longer trains, so that its launcher can start it again."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

EXIT_HUNG = 70  # EX_SOFTWARE: no step ended for too long; the stacks of all threads are in the log
EXIT_TAKEN_OVER = 76  # a later start of the same run, perhaps on another machine, owns the run's folder
_CHECK_SECONDS, _REPORT_SECONDS = 1.0, 10.0


class Watchdog:
    """End this process if `beat` is not called for too long, or if the process no longer owns the run's folder.

    start_seconds: limit until the first beat; seconds: limit between beats; None: no limit. is_ours: may do I/O.
    on_hang: reports the hang; the watchdog waits for it only shortly, because it may hang too.
    The watchdog has its own thread, because the main thread may hang in a collective that waits for a lost machine.
    """

    def __init__(
        self,
        start_seconds: float | None,
        seconds: float | None,
        is_ours: Callable[[], bool] = lambda: True,
        on_hang: Callable[[], None] = lambda: None,
    ) -> None:
        self._limit, self._seconds, self._is_ours, self._on_hang = start_seconds, seconds, is_ours, on_hang
        self._last = time.monotonic()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def beat(self) -> None:
        self._limit, self._last = self._seconds, time.monotonic()

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._end.wait(_CHECK_SECONDS):
            silent = time.monotonic() - self._last
            if self._limit is not None and silent > self._limit:
                self._end_hung(silent)
            if not self._is_ours():
                print("TAKEN OVER: a later start of this run writes its folder now; this one ends", file=sys.stderr)
                sys.stderr.flush()
                os._exit(EXIT_TAKEN_OVER)

    def _end_hung(self, silent: float) -> None:
        print(f"HUNG: no step ended for {silent:.0f} s; what each thread was doing:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        report = threading.Thread(target=self._on_hang, daemon=True)
        report.start()
        report.join(_REPORT_SECONDS)
        os._exit(EXIT_HUNG)  # not sys.exit: the main thread may never run again
