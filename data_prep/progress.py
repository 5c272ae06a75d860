"""Progress on standard error: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Callable
from datetime import timedelta

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


def describe_words(words: int, per_second: float) -> str:
    return f"{_count(words)} words, {_count(per_second)} words/s"


def _count(number: float) -> str:
    return f"{number / 1e6:.2f} M" if number >= 1e6 else f"{number:,.0f}"


class Progress:
    """Show the share done, figures and the time left. total: in any unit, 0 if unknown (standard input).

    unit: shown with the number done, if given. describe(count, count per second): the figures, as text.
    """

    def __init__(
        self,
        title: str,
        total: int,
        show: bool = True,
        unit: str = "",
        describe: Callable[[int, float], str] = describe_words,
    ) -> None:
        self._title, self._total, self._unit, self._describe = title, total, unit, describe
        self._begun = self._last_line = time.monotonic()
        self._at_start = (0, 0)
        self._prints_lines = show and not sys.stderr.isatty()
        share = f"{{percentage:3.0f}}%|{{bar}}| {'{n_fmt}/{total_fmt} ' if unit else ''}" if total else ""
        self._bar = tqdm(
            desc=title,
            total=total or None,
            file=sys.stderr,
            disable=not show or self._prints_lines,
            dynamic_ncols=True,
            smoothing=0.05,
            bar_format=f"{{desc}} {share}[{{elapsed}}<{{remaining}}{{postfix}}]",
        )

    def start_at(self, done: int, count: int = 0) -> None:
        """Set what earlier calls have done: it counts as done, but not for the speed."""
        self._at_start = (done, count)
        self._bar.initial = self._bar.n = done

    def update(self, done: int, count: int = 0, is_line_due: bool | None = None) -> None:
        """Show that `done` of `total` is done, earlier calls included. is_line_due: None: after some seconds."""
        if not self._bar.disable:
            self._bar.set_postfix_str(self._text(count), refresh=False)
            self._bar.update(done - self._bar.n)
        elif self._prints_lines:
            seconds = time.monotonic() - self._last_line
            if is_line_due or (is_line_due is None and seconds > _SECONDS_BETWEEN_LINES):
                self._last_line = time.monotonic()
                print(self._line(done, count), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar as it is and move the cursor to a new line."""
        self._bar.close()

    def _text(self, count: int) -> str:
        return self._describe(count, (count - self._at_start[1]) / max(time.monotonic() - self._begun, 1e-3))

    def _line(self, done: int, count: int) -> str:
        """Return a line of progress. The time left is by the speed of this call."""
        if not self._total:
            return f"{self._title}: {self._text(count)}"
        head = f"{self._unit} {done:,} of {self._total:,}" if self._unit else self._title
        line, progressed = f"{head} ({done / self._total:.0%}): {self._text(count)}", done - self._at_start[0]
        if progressed <= 0:
            return line
        seconds = (time.monotonic() - self._begun) / progressed * (self._total - done)
        return f"{line}, {timedelta(seconds=int(seconds))} left"
