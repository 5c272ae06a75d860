"""In CI every test runs: a skipped test fails there, except where the machine cannot have what it needs."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.object_store import Store

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


@pytest.fixture(scope="session")
def s3_port() -> Iterator[int]:
    from tests.object_store import serving

    with serving() as port:
        yield port


@pytest.fixture
def store(s3_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator["Store"]:
    """An object store with an empty bucket, to which this process has access."""
    import s3fs

    from data_prep.dataset.urls import transfer
    from tests.object_store import proxied

    with proxied(s3_port) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(transfer, "_SECONDS_BEFORE_RETRY", 0.01)
        s3fs.S3FileSystem.clear_instance_cache()  # it would ask the store of an earlier test
        yield store
        s3fs.S3FileSystem.clear_instance_cache()
