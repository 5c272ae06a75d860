"""Use the fast path on a GPU, Triton kernels and CUDA graphs, only where it has agreed with the plain path.

The result of the comparison is remembered in the user's cache folder, in a file for each GPU model, driver, torch and
code version. A damaged or unwritable file costs another comparison, and nothing else.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from typing_extensions import TypedDict

from data_prep.dataset.files import DataError, write_json
from data_prep.dataset.remote import default_cache_dir
from data_prep.dataset.typed_json import load_json
from pipeline.config.terminal import print_text
from pipeline.model.backend.device import mode_of, using
from pipeline.version import __version__

_PACKAGE = Path(__file__).parents[2]
_CODE = ("model", "train/step", "train/fast_path")  # folders of _PACKAGE whose code computes the numbers
_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Machine:
    """What the numbers of the fast path depend on. driver: "" if it cannot be read: then nothing is remembered."""

    gpu: str
    driver: str
    torch: str
    code: str


class Verdict(TypedDict):
    """The content of a file. difference: "" if the paths agreed."""

    machine: dict[str, str]
    mode: str
    difference: str


@contextmanager
def fast_path(device: str, rank: int = 0, devices: int = 1) -> Iterator[str]:
    """Use the fast path inside the block if this rank's GPU may; yield the mode.

    device: cuda, or another one, where nothing is to be checked. devices: processes of this node.
    """
    if device != "cuda":
        yield "plain"
        return
    gpu, is_writer = torch.device("cuda", rank % devices), rank % devices == 0
    with torch.cuda.device(gpu):  # Triton launches on the current device
        mode, line = checked_mode(gpu, machine_of(gpu), _folder(), is_writer)
    torch.cuda.empty_cache()
    if line and (rank == 0 or mode == "plain"):
        print_text(line, sys.stderr)
    with using(mode):
        yield mode


def checked_mode(
    device: torch.device, machine: Machine, folder: Path | None, writes: bool = True, sizes: Sequence[str] = ()
) -> tuple[str, str]:
    """Return the mode for a device, and the line that says why, "" if the user chose the plain path.

    folder: of the files, None if there is none. writes: whether this process writes the file, one on a node.
    sizes: as for `difference`.
    """
    mode = mode_of(device)
    if mode == "plain":
        return mode, ""
    path = None if folder is None or not machine.driver else folder / f"{_name(machine, mode)}.json"
    verdict, when = _remembered(path, machine, mode), "checked before"
    if verdict is None:
        from pipeline.train.fast_path.agreement import difference

        started = time.perf_counter()
        try:
            verdict = Verdict(machine=asdict(machine), mode=mode, difference=difference(device, mode, sizes))
        except Exception as error:  # the compiler of the kernels, or what it needs, is missing or fails
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            return "plain", f"gpu      {machine.gpu}: the fast path ({mode}) fails here ({reason}): plain torch is used"
        is_kept = writes and _remember(path, verdict)
        when = f"checked in {time.perf_counter() - started:.1f} s{'' if is_kept or not writes else ', not remembered'}"
    if not verdict["difference"]:
        return mode, f"gpu      {machine.gpu}: the fast path ({mode}) agrees with plain torch ({when})"
    remedy = f"; remove {path} to check again" if path is not None and path.exists() else ""
    wrong = f"the fast path ({mode}) is wrong here: {verdict['difference']} ({when})"
    return "plain", f"gpu      {machine.gpu}: {wrong}; plain torch is used, which is slower{remedy}"


def machine_of(device: torch.device) -> Machine:
    major, minor = torch.cuda.get_device_capability(device)
    try:
        driver = _DRIVER.read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    except OSError:
        driver = ""
    return Machine(f"{torch.cuda.get_device_name(device)} ({major}.{minor})", driver, torch.__version__, code_version())


def code_version() -> str:
    """Return the version of this package with a digest of the code that computes the numbers."""
    digest = hashlib.sha256()
    for path in sorted(path for folder in _CODE for path in (_PACKAGE / folder).rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:16]}"


def _folder() -> Path | None:
    try:
        return default_cache_dir() / "fast-path"
    except RuntimeError:  # a user without a home, as in some containers
        return None


def _name(machine: Machine, mode: str) -> str:
    return hashlib.sha256(json.dumps([asdict(machine), mode], sort_keys=True).encode()).hexdigest()[:32]


def _remembered(path: Path | None, machine: Machine, mode: str) -> Verdict | None:
    """Return the verdict in the file, None if there is none for this machine and mode."""
    if path is None:
        return None
    try:
        verdict: Verdict = load_json(path, Verdict, "remove it")
    except (DataError, OSError):
        return None
    return verdict if (verdict["machine"], verdict["mode"]) == (asdict(machine), mode) else None


def _remember(path: Path | None, verdict: Verdict) -> bool:
    if path is None:
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, verdict)
    except (DataError, OSError):
        return False
    return True
