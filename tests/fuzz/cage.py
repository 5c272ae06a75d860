"""Run cases in forked children with limits on time and memory, and find what they leave behind or reveal."""

import contextlib
import ctypes
import faulthandler
import io
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pipeline import cli
from tests.fuzz.mutators import SECRET, signature

CPU_SECONDS, WALL_SECONDS = 20, 150  # of a case; normally the first limit decides, however busy the machine is
MEMORY_BYTES = 3 << 30  # that a child may map in addition to its parent's memory
MAX_SENTENCE = 900  # including paths and refused values
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2): processes that a child leaves behind become ours, and are seen
_NOTE = "damage.txt"
_noted: list[str] = []


class Refused(Exception):
    """The command ended as it should for bad input: with one sentence and exit code 2."""


class Fault(Exception):
    """Something that a case must not do."""


@dataclass(frozen=True)
class Outcome:
    """kind: success, refused or failure. message: the refusal or the fault. damage: what was done to the input."""

    area: str
    case: int
    kind: str
    message: str
    damage: str


Trial = Callable[[Random, Path, int], Counter[str] | None]
"""Call trial(chance, empty folder, case): it raises Refused or Fault, or returns; a batch returns counts by kind."""


def note(damage: str, instead: bool = False) -> None:
    """Record what is done to the input of the running case, before the input is used, in case its process dies.

    instead: replace what was recorded before.
    """
    _noted[:] = [damage] if instead else [*_noted, damage]
    Path(os.environ["HOME"], _NOTE).write_text("; ".join(_noted), "utf-8", "backslashreplace")


def elmo(*arguments: str, ends_with_1: bool = False, refused_by: str = "\0") -> str:
    """Run a command in this process and return what it printed.

    ends_with_1: exit code 1 counts as a refusal too, as for `prep verify`. refused_by: so does this warning.
    Raise Refused, or Fault for any other end.
    """
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(list(arguments))
    except SystemExit as error:
        raise Fault(f"exit: SystemExit({error.code!r}) out of the command") from None
    except KeyboardInterrupt:
        raise Fault("exit: KeyboardInterrupt out of the command") from None
    except BaseException as error:
        raise Fault(_describe_exception(error)) from None
    message = out.getvalue() + err.getvalue()
    if "Traceback" in message:
        raise Fault(f"a traceback is printed: {message[message.index('Traceback') :].splitlines()[-1]}")
    if SECRET in message:
        raise Fault(f"the environment is revealed: {message[-300:]}")
    if code == 1 and ends_with_1:
        raise Refused(f"code 1: {message.strip().splitlines()[-1]}")
    if code == 0 and refused_by in err.getvalue():
        raise Refused(f"code 0: {err.getvalue().strip().splitlines()[-1]}")
    if code == 2:
        raise Refused(_sentence(arguments[0], err.getvalue()))
    if code != 0:
        raise Fault(f"exit code {code}: {message[-300:]}")
    return out.getvalue()


def _describe_exception(error: BaseException) -> str:
    """Describe an unexpected exception in one line: its type, its place in our code, and its message."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/pipeline/" in f.filename or "/data_prep/" in f.filename]
    at = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "?"
    return f"traceback: {type(error).__name__} in {at}: {' '.join(str(error).split())[:300]}"


def _sentence(command: str, message: str) -> str:
    """Return the one sentence of a refusal. It may be followed by up to ten indented lines with places."""
    lines = message.rstrip().splitlines()
    first = next((n for n, line in enumerate(lines) if line.startswith(f"elmo {command}: ")), None)
    if first is None or not all(line.startswith("  ") for line in lines[first + 1 :]) or len(lines) - first > 12:
        raise Fault(f"no sentence: exit code 2 after {message[-300:]!r}")
    sentence = lines[first].partition(": ")[2]
    if len(sentence) > MAX_SENTENCE:
        raise Fault(f"a long sentence: {len(sentence)} characters: {sentence[:200]}")
    return sentence


def call(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function. Raise Refused for errors that `elmo` reports in one sentence, and Fault for all others."""
    try:
        return function(*arguments)
    except (Refused, Fault):
        raise
    except Exception as error:
        if isinstance(error, ValueError) and type(error).__module__.split(".")[0] in ("pipeline", "data_prep"):
            raise Refused(str(error)) from None
        raise Fault(_describe_exception(error)) from None


class Cage:
    """Run cases of one area after another, each in a folder of its own below `root`.

    guarded: folders that no case may change. keep: leave the cases' folders.
    """

    def __init__(self, root: Path, guarded: list[Path], keep: bool = False) -> None:
        self.root, self._guarded, self._keep = root, guarded, keep
        root.mkdir(exist_ok=True)
        (root / "victim").write_text("a file that no case may touch\n")
        ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)

    def run(self, area: str, trial: Trial, cases: list[int], seed: int) -> Iterator[Outcome | Counter[str]]:
        """Run the cases in one child; after a case that ends its process, run the rest in another child."""
        todo = list(cases)
        while todo:
            before = self._listing()
            results = self.root / f"{area}.results"
            results.write_bytes(b"")
            log = self.root / f"{area}.log"
            child = os.fork()
            if child == 0:
                self._in_child(area, trial, todo, seed, results, log)
            _, status = os.waitpid(child, 0)
            lines = [json.loads(line) for line in results.read_bytes().splitlines()]
            done = lines[: len(todo)]
            for line in done:
                yield Counter(line["counts"]) if "counts" in line else Outcome(**line)
            current = todo[min(len(done), len(todo) - 1)]
            if status != 0 or len(done) < len(todo):
                yield Outcome(area, current, "failure", _death(status, log), self._clear(area, current))
            if left := _end_group(child):
                yield Outcome(area, current, "failure", f"processes left behind: {left}", "one of this batch")
            if changed := sorted({path for path, *_ in set(self._listing()) ^ set(before)}):
                message = f"outside the case's folder changed: {', '.join(changed[:3])}"
                yield Outcome(area, current, "failure", message, "in this batch")
            todo = todo[len(done) + 1 :] if len(done) < len(todo) else []

    def _clear(self, area: str, case: int) -> str:
        """Remove the files of a case that did not end; return the record of its damage."""
        note_path = self.root / f"{area}-{case}" / "home" / _NOTE
        noted = note_path.read_text() if note_path.exists() else "unknown"
        if not self._keep:
            shutil.rmtree(self.root / f"{area}-{case}", ignore_errors=True)
        return noted

    def _listing(self) -> list[tuple[str, int, int]]:
        """Return every file in the root and in the guarded folders, with its size and time."""
        paths = [path for path in self.root.iterdir() if not path.is_dir() and path.suffix not in (".results", ".log")]
        paths += [path for folder in self._guarded for path in (*folder.rglob("*"), folder)]
        return sorted((str(p), p.lstat().st_size, p.lstat().st_mtime_ns) for p in paths)

    def _in_child(self, area: str, trial: Trial, todo: list[int], seed: int, results: Path, log: Path) -> None:
        code = 1
        try:
            os.setsid()
            _redirect(log)
            _limit_memory()
            faulthandler.enable()
            for case in todo:
                _limit_time()
                outcome = self._one(area, trial, case, seed, log)
                with results.open("a") as file:
                    file.write(json.dumps(outcome) + "\n")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _one(self, area: str, trial: Trial, case: int, seed: int, log: Path) -> dict[str, Any]:
        folder = self.root / f"{area}-{case}"
        folder.mkdir()
        home = folder / "home"
        home.mkdir()
        os.environ.update(HOME=str(home), TMPDIR=str(home), XDG_CACHE_HOME=str(home), FUZZ_SECRET=SECRET, COLUMNS="200")
        os.chdir(folder)
        _noted.clear()
        read_before = log.stat().st_size
        kind, message, counts = "success", "", None
        try:
            counts = trial(Random(f"{seed} {area} {case}"), folder, case)
        except Refused as error:
            kind, message = "refused", str(error)
        except Fault as error:
            kind, message = "failure", str(error)
        except Exception:
            kind, message = "failure", f"the case itself: {traceback.format_exc()[-700:]}"
        output = log.read_bytes()[read_before:].decode(errors="replace")
        if kind != "failure" and ("Traceback" in output or "Fatal" in output):
            kind, message = "failure", f"a traceback is printed by a process: {output.strip().splitlines()[-1]}"
        if kind != "failure" and (leak := _leak(folder)):
            kind, message = "failure", f"the environment is revealed in {leak}"
        if not self._keep:
            os.chdir(self.root)
            shutil.rmtree(folder, ignore_errors=True)
        if counts is not None and kind == "success":
            return {"counts": dict(counts)}
        return {"area": area, "case": case, "kind": kind, "message": message, "damage": "; ".join(_noted)}


def _redirect(log: Path) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", closefd=False)  # type: ignore[misc]  # noqa: SIM115


def _limit_memory() -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _limit_time() -> None:
    """Let the kernel end the process after the limit, even in code that never returns to Python."""
    for signum in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(signum, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    signal.alarm(WALL_SECONDS)


def _death(status: int, log: Path) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGPROF:
        return f"hangs: no end after {CPU_SECONDS} s of processor time"
    if code == -signal.SIGALRM:
        return f"hangs: no end after {WALL_SECONDS} s"
    last_line = log.read_text(errors="replace").strip().splitlines()[-1:]
    return f"the process dies with code {code}: {last_line}"


def _end_group(group: int) -> str:
    """Kill the processes of a child's session that remain after its end; return their names."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-group, os.WNOHANG)[0]:
                pass
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return ""
        time.sleep(0.05)
    left = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group:
                left.append(stat.with_name("cmdline").read_text().replace("\0", " ")[:80])
    os.killpg(group, signal.SIGKILL)
    return ", ".join(left) or "unnamed"


def _leak(folder: Path) -> str:
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size < 1 << 20 and SECRET.encode() in path.read_bytes():
            return path.name
    return ""


def group_of(outcome: Outcome) -> str:
    """Return what a failure has in common with other failures of the same cause."""
    return f"{outcome.area}: {signature(outcome.message)}"
