"""`elmo sync`: offline pieces of runs go up to wandb's server, in their order, each run as one run.

Every start of a run offline leaves a piece, RUN_DIR/wandb/offline-run-*; all have the run's one id. `wandb sync`
appends each to what the server has of the run and marks it as done, so that it goes up once. A piece that a kill cut
short it uploads as far as it goes, but does not mark, and would append again: that is marked here.
"""

import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from pipeline.config.schema import ConfigError
from pipeline.config.terminal import say
from pipeline.config.watch import SyncConfig
from pipeline.train.run_dir.lock import is_claimed

_QUIET_SECONDS = 120  # wandb writes every 15 s or so while it tracks
_CONNECT_SECONDS = 20
_CUT_SHORT = re.compile(r"ends with an incomplete record|transactionlog: .*EOF")


def sync(config: SyncConfig) -> str:
    """Upload what has not been; returns what to tell the user.

    Raises ConfigError if the server cannot be reached or does not take a piece; what went up before stays there.
    """
    folders = [Path(os.path.expanduser(run)) for run in config.runs]
    pieces = [piece for folder in folders for piece in offline_pieces(folder)]
    live = [piece for folder in folders for piece in _being_written(folder)]
    waiting = [piece for piece in pieces if not is_synced(piece) and piece not in live]
    said = [f"{len(pieces) - len(waiting) - len(live)} of {len(pieces)} pieces were uploaded before"]
    if waiting and not config.dry_run:
        _require_server()
        urls = [_upload(piece) for piece in waiting]
        said += [f"{len(waiting)} uploaded: {', '.join(dict.fromkeys(urls))}"]
    elif waiting:
        said += [f"{len(waiting)} would be uploaded: {', '.join(map(str, waiting))}"]
    said += [f"{piece} is being written: sync again when the run has stopped" for piece in live]
    return "\n".join(said)


def offline_pieces(run_dir: Path) -> list[Path]:
    """Oldest first: their names begin with the time. Raises ConfigError for a folder that has no wandb files."""
    if not (run_dir / "wandb").is_dir():
        raise ConfigError(
            f"{run_dir} has no wandb files to upload; give the run.dir= of a run that was tracked offline"
        )
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def is_synced(piece: Path) -> bool:
    return any(piece.glob("*.wandb.synced"))


def _being_written(run_dir: Path) -> list[Path]:
    """The newest piece, while a process tracks there: uploaded now, its rest would be lost."""
    newest = offline_pieces(run_dir)[-1:]
    written = [path.stat().st_mtime for piece in newest for path in piece.glob("*.wandb")]
    ended = (run_dir / "end.json").exists()
    lately = time.time() - max(written, default=0.0) < _QUIET_SECONDS
    return newest if is_claimed(run_dir) or (lately and not ended) else []


def _require_server() -> None:
    """Otherwise wandb would go on trying for hours."""
    import wandb

    url = os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)
    try:
        urllib.request.urlopen(url, timeout=_CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # it answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"{url} cannot be reached ({reason}); sync from a machine with a network, later") from None


def _upload(piece: Path) -> str:
    """The piece is on the server afterwards, as far as it goes; returns the address of its run."""
    environment = {name: value for name, value in os.environ.items() if name not in ("WANDB_MODE", "WANDB_DIR")}
    command = [sys.executable, "-m", "wandb", "sync", str(piece)]
    say(f"sync     {piece}", sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, stdin=subprocess.DEVNULL)
    output = done.stdout + done.stderr
    if not is_synced(piece) and _CUT_SHORT.search(output):
        print("         cut short by a kill: uploaded what there is (metrics.jsonl has everything)", file=sys.stderr)
        for log in piece.glob("*.wandb"):
            log.with_name(f"{log.name}.synced").touch()
    if not is_synced(piece):
        raise ConfigError(
            f"{piece} was not accepted by wandb ({_reason(output)}); run `wandb login` first, or `wandb sync` by hand"
        )
    found = re.search(r"https?://\S+/runs/\S+", output)
    return found[0] if found else "(nothing in it)"


def _reason(output: str) -> str:
    lines = output.splitlines() or ["no output"]
    telling = [line for line in lines if re.search(r"error|fail|authenticated|key|denied", line, re.IGNORECASE)]
    return (telling or lines)[-1].removeprefix("wandb: ")
