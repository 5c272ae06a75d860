"""Other Pythons and systems: what the code needs of them, as far as one machine can show."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.dataset.files import DataError, lock_file
from pipeline.data import datamodule
from pipeline.tasks.training import loader
from tests.pages import ROOT
from tests.programs import program
from tests.tasks import training

FOLDERS = ("pipeline", "data_prep", "slurm", "benchmarks", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in FILES
    if path.relative_to(ROOT).parts[0] in ("pipeline", "data_prep")
]
# Foreign libraries come first: they import these modules too, and handle Windows by the platform's name.
LACKING = """
import builtins, ctypes, faulthandler, importlib, os, signal, sys, time
for name in ("torch", "torch.distributed", "pytorch_lightning", "wandb", "webdataset", "fsspec", "scipy", "omegaconf",
             "pytorch_lightning.loggers", "concurrent.futures.process", "multiprocessing.resource_tracker",
             "multiprocessing.sharedctypes", "multiprocessing.popen_fork", "multiprocessing.popen_spawn_posix"):
    importlib.import_module(name)
for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "syslog"):
    sys.modules[name] = None
for name in [n for n in dir(signal) if n.startswith("SIG") and n not in ("SIGINT", "SIGTERM", "SIG_DFL", "SIG_IGN")]:
    delattr(signal, name)
for owner, names in ((signal, ("pthread_sigmask", "sigwaitinfo", "sigtimedwait", "setitimer")),
                     (faulthandler, ("register",)),
                     (os, ("fork", "sched_getaffinity", "getuid", "geteuid", "killpg", "setsid", "O_CLOEXEC"))):
    for name in names:
        delattr(owner, name)
def without_libc(name, *_, **__):
    raise OSError(f"this system has no {name}")
ctypes.CDLL = without_libc
for name in MODULES:
    importlib.import_module(name)
from pipeline.cli import main
from pipeline.train.cluster import signals
signals.install(); signals.hold(); signals.release()
assert main(["-h"]) == 0
assert main(["pretrain", "data.path=absent"]) == 2
"""


def test_the_code_needs_no_newer_python_than_the_oldest_allowed_one() -> None:
    folders = [str(ROOT / folder) for folder in FOLDERS]
    command = [program("vermin"), "-t=3.10-", "--no-tips", "--eval-annotations", "--violations", *folders]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "Minimum required versions: 3.10" in done.stdout, done.stdout


def test_every_module_can_be_imported_without_unix_signals_locks_and_libc() -> None:
    code = LACKING.replace("MODULES", repr(MODULES))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "elmo pretrain: absent" in done.stderr


def test_missing_file_locks_are_reported_in_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with open(tmp_path / "lock", "w") as file, pytest.raises(DataError, match=r"no file locks .*; use Linux, macOS"):
        lock_file(file)


def keywords_of(path: Path, name: str) -> list[set[str | None]]:
    """Return the keywords of each call in a file of a function with this name."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    named = [c for c in calls if isinstance(c.func, ast.Name | ast.Attribute) and ast.unparse(c.func).endswith(name)]
    return [{keyword.arg for keyword in call.keywords} for call in named]


@pytest.mark.parametrize("path", [p for p in FILES if p.relative_to(ROOT).parts[0] != "tests"], ids=lambda p: p.name)
def test_no_process_is_started_with_the_default_method_of_python(path: Path) -> None:
    """Python 3.14 prefers another method than 3.13."""
    source = path.read_text(encoding="utf-8")
    for name in ("DataLoader", "_Loader"):
        for keywords in keywords_of(path, name):
            assert "num_workers" not in keywords or "multiprocessing_context" in keywords
    for name in ("multiprocessing.Process(", "multiprocessing.Pool(", "mp.spawn(", "get_context()"):
        assert name not in source
    if "ProcessPoolExecutor(" in source:
        assert 'multiprocessing.get_context("' in source


def test_loader_processes_are_forked_on_linux_and_spawned_elsewhere() -> None:
    assert datamodule.START_METHOD == loader.START_METHOD == ("fork" if sys.platform == "linux" else "spawn")


@pytest.mark.slow
def test_a_task_trains_with_spawned_loader_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = training.make_files(tmp_path)
    monkeypatch.setattr(loader, "START_METHOD", "spawn")
    assert training.task(folder, "spawned", "training.workers=1", "training.max_epochs=2") == 0
    monkeypatch.setattr(loader, "START_METHOD", "fork")
    assert training.task(folder, "forked", "training.workers=1", "training.max_epochs=2") == 0
    assert training.weights(folder, "spawned") == training.weights(folder, "forked")
