"""Freed memory is kept for the next step."""

import os
import platform
import subprocess
import sys

import pytest

_SCRIPT = """
import resource, sys, torch
from pipeline.train.trainer import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for _ in range(20):
    large = [torch.ones(9 << 20) for _ in range(2)]  # 36 MiB each
    del large
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def faults(way: str) -> int:
    """Run a process that allocates two large blocks twenty times; return its page faults."""
    environment = os.environ | {"THP_MEM_ALLOC_ENABLE": "0", "PYTHONPATH": os.getcwd()}  # pages of one size only
    command = [sys.executable, "-c", _SCRIPT, way]
    return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_freed_blocks_are_reused_without_new_page_faults() -> None:
    twenty_times = 20 * 2 * 9 * 1024
    usual, kept = faults("usual"), faults("kept")
    assert usual > twenty_times > 3 * (usual - twenty_times), "the rest is loading torch"
    assert kept < usual / 2
