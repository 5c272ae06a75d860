"""Memory is limited by the size of spills and shards, not by the size of the corpus."""

import os
import subprocess
import sys
from pathlib import Path

from tests.corpora import unlike_sentences

_SCRIPT = """
import resource, sys
from data_prep import prepare
from data_prep.passes import encode
encode.SPILL_TOKENS = 1 << 18  # small, as the corpus is
prepare.prepare([sys.argv[1]], sys.argv[2], workers=1, show_progress=False, shard_tokens=1 << 18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mib(path: Path) -> float:
    """Prepare a text in a process of its own; return its peak resident memory."""
    command = [sys.executable, "-c", _SCRIPT, str(path), f"{path}.out"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.getcwd()}, capture_output=True, check=True)
    return float(done.stdout)


def test_ten_times_the_text_takes_no_more_memory(tmp_path):
    text = "".join(line + "\n" for line in unlike_sentences(20_000, types=5000))
    for name, times in (("once", 1), ("ten-times", 10)):
        with open(tmp_path / name, "w", encoding="utf-8") as file:
            file.writelines(text for _ in range(times))
    once, ten_times = peak_mib(tmp_path / "once"), peak_mib(tmp_path / "ten-times")
    assert ten_times < 1.15 * once + 10
