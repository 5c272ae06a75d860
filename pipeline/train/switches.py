"""What asks a run to stop or to save: signals to any rank, and files in the run's folder. All ranks hear it at once."""

import logging
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline import signals

log = logging.getLogger(__name__)

STOP, SAVE = "stop", "save"  # files in the run's folder, made with `touch`; gone once they were obeyed
_LOOK_SECONDS = 2.0
_NOTHING, _SAVE, _STOP, _SIGNAL = range(4)  # a signal s is _SIGNAL + s, so that rank 0 learns which it was
_NUMBERS = _SIGNAL + signal.NSIG


class Switches:
    """Looked at by rank 0 every few seconds, since a look at a shared disk may take long."""

    def __init__(self, run_dir: Path | None) -> None:
        self._run_dir, self._looked = run_dir, time.monotonic()
        self._to_clear: set[str] = set()  # obeyed, but not yet removed
        self._has_warned = False

    def asked(self) -> int:
        """What this rank was asked for, as a number of which the largest over all ranks counts."""
        signum = signals.received()
        if signum is not None:
            return _SIGNAL + signum
        if self._run_dir is None or time.monotonic() - self._looked < _LOOK_SECONDS:
            return _NOTHING
        self._looked = time.monotonic()
        try:
            self._clear(self._run_dir)
            present = set(os.listdir(self._run_dir))
        except OSError as error:  # a file system that does not answer asks for nothing
            self._warn(error)
            return _NOTHING
        return _STOP if STOP in present else _SAVE if SAVE in present else _NOTHING

    def obeyed(self, asked: int) -> None:
        if self._run_dir is None or asked not in (_STOP, _SAVE):
            return
        self._to_clear.add(STOP if asked == _STOP else SAVE)
        try:
            self._clear(self._run_dir)
        except OSError as error:
            self._warn(error)

    def _clear(self, run_dir: Path) -> None:
        """Raises OSError; what could not be removed is removed at a later look, before it counts again."""
        for name in sorted(self._to_clear):
            (run_dir / name).unlink(missing_ok=True)
            self._to_clear.remove(name)

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            log.warning("run.dir does not answer (%s): its files `stop` and `save` may be seen or removed late", error)
        self._has_warned = True


def as_votes(asked: int) -> Tensor:
    """(numbers,) float32: what a rank was asked for, to be summed over ranks with other values on their way."""
    return torch.zeros(_NUMBERS).index_fill_(0, torch.tensor([asked]), 1.0)


def most_asked(votes: Sequence[float]) -> int:
    """The largest that any rank was asked for. votes: their sum or mean over ranks; none: nothing was asked."""
    return max((number for number, count in enumerate(votes) if count > 0), default=_NOTHING)


def is_to_save(asked: int) -> bool:
    return asked != _NOTHING


def is_to_stop(asked: int) -> bool:
    return asked >= _STOP


def meaning(asked: int) -> str:
    """As end.json tells it: "stop" for the file, else a signal's name."""
    return STOP if asked == _STOP else signal.Signals(asked - _SIGNAL).name
