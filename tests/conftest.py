"""In CI every test runs: a skipped test fails there, except where the machine cannot have what it needs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

# Set before anything imports torch. The tests are tiny: one thread is fastest and leaves the other cores free.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"  # set before triton is imported, which reads it too

SHARED = Path(__file__).resolve().parents[2] / "shared"  # fixtures that are too large for the repository


def may_skip_in_ci(reason: str) -> bool:
    return "GPU" in reason or (not SHARED.exists() and ("../shared" in reason or str(SHARED) in reason))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = str(call.excinfo.value) if call.excinfo else ""
        if not may_skip_in_ci(reason):
            report.outcome = "failed"
            report.longrepr = f"skipped, which CI does not allow: {reason}"
    return report
