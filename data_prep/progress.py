"""Progress of a pass on standard error: a bar in a terminal, a line every ten seconds elsewhere."""

import sys
import time
from typing import Any

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Show one pass: share done, words per second, time left. total: in any unit, 0 if unknown (standard input)."""

    def __init__(self, title: str, total: int, show: bool = True) -> None:
        self.title, self.total = title, total
        self._begun = self._last_line = time.monotonic()
        self._done, self._at_start = 0, (0, 0)
        self._bar: Any = None
        self._lines = show and not sys.stderr.isatty()
        if show and not self._lines:
            from tqdm import tqdm

            with_share = "{desc}{percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
            self._bar = tqdm(
                desc=title,
                total=total or None,
                file=sys.stderr,
                bar_format=with_share if total else "{desc} {elapsed}{postfix}",
            )

    def start_at(self, done: int, words: int) -> None:
        """Set what earlier calls have done: it counts as done, but not for the speed."""
        self._at_start = (done, words)
        if self._bar is not None:
            self._bar.initial = self._bar.n = done

    def update(self, done: int, words: int) -> None:
        """Show that `done` of `total` and `words` words are done, earlier calls included."""
        self._done = done
        if self._bar is not None:
            self._bar.n = done
            self._bar.set_postfix_str(f"{words / 1e6:.1f} M words, {self._speed(words) / 1e6:.2f} M/s")
        elif self._lines and time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(self._line(words), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is and move the cursor to a new line."""
        if self._bar is not None:
            self._bar.close()

    def _speed(self, words: int) -> float:
        return (words - self._at_start[1]) / max(time.monotonic() - self._begun, 1e-3)

    def _line(self, words: int) -> str:
        line = f"{self.title}: {words / 1e6:.1f} M words, {self._speed(words) / 1e6:.2f} M words/s"
        progressed = self._done - self._at_start[0]
        if self.total and progressed > 0:
            left = (self.total - self._done) * (time.monotonic() - self._begun) / progressed
            line += f", {100 * self._done / self.total:.0f}%, {left / 60:.1f} minutes left"
        return line
