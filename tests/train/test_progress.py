"""The progress of a run: one bar in a terminal, a few lines in a job's log."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests import processes
from tests.train import runs

pytestmark = [pytest.mark.slow]


def test_a_log_gets_a_few_lines_and_no_bar(dataset: Path, tmp_path: Path) -> None:
    printed = runs.run(dataset, tmp_path / "run", "train.max_steps=25", "train.validate_every_steps=15")
    assert "\r" not in printed and "|" not in printed
    lines = [line for line in printed.splitlines() if re.match(r"step \d+ of 25 ", line)]
    assert [line.split()[1] for line in lines] == ["10", "20", "25"]
    assert re.fullmatch(
        r"step 20 of 25 \(80%\): sampled perplexity [\d.]+, held out [\d.]+, [\d,]+ tokens/s, \d+:\d\d:\d\d left",
        lines[1],
    )
    assert "held out" not in lines[0] and lines[2].endswith("0:00:00 left")
    assert printed.count("held-out perplexity") == 2


def test_a_terminal_gets_one_bar(dataset: Path, tmp_path: Path) -> None:
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    command = [sys.executable, "-m", "pipeline.cli", "pretrain"]
    settings = ["train.max_steps=12", "train.validate_every_steps=6"]
    process = subprocess.Popen(
        [*command, *runs.arguments(dataset, tmp_path / "run", *settings)], cwd=processes.ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=there, env=processes.clean_environment() | {"TERM": "xterm"},
    )  # fmt: skip
    os.close(there)
    shown = b""
    try:
        while part := os.read(here, 65536):
            shown += part
    except OSError:  # the other end is closed
        pass
    os.close(here)
    assert process.wait(processes.WAIT_SECONDS) == 0, shown.decode()
    last = shown.decode().replace("\n", "\r").split("\r")
    bars = [line for line in last if line.startswith(("pretrain", "\x1b[Apretrain"))]
    assert re.search(r"100%\|.*\| 12/12 \[.*sampled perplexity [\d.]+, held out [\d.]+, [\d,]+ tokens/s\]", bars[-1]), (
        last[-3:]
    )
