"""Update the mirror of a run's checkpoints in a thread, so that no step waits for an upload."""

import logging
import math
import threading
import time
from collections.abc import Callable

from pipeline.train.run_dir.mirror import Mirror

log = logging.getLogger(__name__)
_WAIT_SECONDS = 1.0


class Copies:
    """The thread that updates a mirror each time that a checkpoint was saved. Rank 0 only.

    check_right: raises if this process no longer owns the run's folder.
    """

    def __init__(self, mirror: Mirror, check_right: Callable[[], None] = lambda: None) -> None:
        self._mirror, self._check_right = mirror, check_right
        self._due, self._is_ending, self._fault = threading.Event(), False, ""
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)

    def start(self) -> None:
        """Start the thread, once. Call it after the loader's processes are forked, which would inherit its locks."""
        if self._thread.ident is None:
            self._due.set()  # an earlier start of the run may have ended before its last upload
            self._thread.start()

    def saved(self) -> None:
        """Let the thread upload what was saved. If it is busy, it uploads the newest checkpoint next."""
        self._due.set()

    def finish(self, beat: Callable[[], None] = lambda: None, seconds: float = math.inf) -> str:
        """Wait until all is uploaded, so many seconds at most; return why it is not, "" if it is.

        beat: called while this waits.
        """
        self.start()
        self._is_ending = True
        self._due.set()
        until = time.monotonic() + seconds
        while self._thread.is_alive():
            if time.monotonic() > until:
                return f"the upload was not done within {seconds:.0f} s; the next start of the run does it"
            self._thread.join(_WAIT_SECONDS)
            beat()
        return self._fault

    def _work(self) -> None:
        is_last = False
        while not is_last:
            self._due.wait()
            self._due.clear()
            is_last = self._is_ending
            try:
                self._mirror.update(self._check_right)
                self._fault = ""
            except Exception as error:  # a training must not end because of a copy
                self._fault = str(error)
                log.error("NO COPY of the newest checkpoint (%s): training continues, the next save tries again", error)
