"""Progress without a terminal: the time left follows from this call's speed, and is printed once the speed is known."""

import re

import pytest

from data_prep.progress import Progress


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_line_shows_the_share_the_figures_and_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("1/3 reading", 400)
    progress.start_at(100, 5_000_000)
    progress.update(100, 5_000_000, is_line_due=True)
    progress.update(300, 6_000_000, is_line_due=True)
    progress.update(400, 7_000_000)  # it is too early for another line
    progress.close()
    begun, later = lines_of(capsys)
    assert begun == "1/3 reading (25%): 5.00 M words, 0 words/s"
    assert re.fullmatch(r"1/3 reading \(75%\): 6.00 M words, [\d.,]+( M)? words/s, 0:00:\d\d left", later)


def test_an_unknown_total_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("reading", 0, describe=lambda count, per_second: f"{count} words")
    progress.update(7, 9, is_line_due=True)
    assert lines_of(capsys) == ["reading: 9 words"]


def test_nothing_is_printed_with_progress_turned_off(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("reading", 10, show=False)
    progress.update(5, 5, is_line_due=True)
    progress.close()
    assert not lines_of(capsys)
