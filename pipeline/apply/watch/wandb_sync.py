"""`elmo sync`: upload the offline pieces of runs to wandb's server, in order, each run as one run.

Every offline start of a run leaves a piece, RUN_DIR/wandb/offline-run-*; all have the run's one id. `wandb sync`
appends each piece to the run on the server and marks the piece as done. If a kill cut a piece short, `wandb sync`
uploads what there is but does not mark the piece, and would append it again: this module marks such a piece.
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
from pipeline.config.terminal import print_text
from pipeline.config.watch import SyncConfig
from pipeline.train.run_dir.lock import is_claimed

_QUIET_SECONDS = 120  # wandb writes about every 15 s while it tracks
_CONNECT_SECONDS = 20
_CUT_SHORT = re.compile(r"ends with an incomplete record|transactionlog: .*EOF")


def sync(config: SyncConfig) -> str:
    """Upload the pieces that were not uploaded before; return the text to print.

    Raises ConfigError if the server cannot be reached or refuses a piece; pieces uploaded before that stay there.
    """
    folders = [Path(os.path.expanduser(run)) for run in config.runs]
    pieces = [piece for folder in folders for piece in offline_pieces(folder)]
    live = [piece for folder in folders for piece in _being_written(folder)]
    waiting = [piece for piece in pieces if not is_synced(piece) and piece not in live]
    lines = [f"{len(pieces) - len(waiting) - len(live)} of {len(pieces)} pieces were uploaded before"]
    if waiting and not config.dry_run:
        _require_server()
        urls = [_upload(piece) for piece in waiting]
        lines += [f"{len(waiting)} uploaded: {', '.join(dict.fromkeys(urls))}"]
    elif waiting:
        lines += [f"{len(waiting)} would be uploaded: {', '.join(map(str, waiting))}"]
    lines += [f"{piece} is being written: sync again when the run has stopped" for piece in live]
    return "\n".join(lines)


def offline_pieces(run_dir: Path) -> list[Path]:
    """Return the pieces, oldest first, by their names. Raises ConfigError for a folder without wandb files."""
    if not (run_dir / "wandb").is_dir():
        raise ConfigError(
            f"{run_dir} has no wandb files to upload; give the run.dir= of a run that was tracked offline"
        )
    return sorted((run_dir / "wandb").glob("offline-run-*"))


def is_synced(piece: Path) -> bool:
    return any(piece.glob("*.wandb.synced"))


def _being_written(run_dir: Path) -> list[Path]:
    """Return the newest piece while a process writes it; its rest would be lost if it were uploaded now."""
    newest = offline_pieces(run_dir)[-1:]
    written = [path.stat().st_mtime for piece in newest for path in piece.glob("*.wandb")]
    ended = (run_dir / "end.json").exists()
    lately = time.time() - max(written, default=0.0) < _QUIET_SECONDS
    return newest if is_claimed(run_dir) or (lately and not ended) else []


def _require_server() -> None:
    """Raise ConfigError if the server does not answer; `wandb sync` would try for hours."""
    import wandb

    url = os.environ.get("WANDB_BASE_URL") or str(wandb.setup().settings.base_url)
    try:
        urllib.request.urlopen(url, timeout=_CONNECT_SECONDS).close()
    except urllib.error.HTTPError:
        return  # the server answers
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(f"{url} cannot be reached ({reason}); sync from a machine with a network, later") from None


def _upload(piece: Path) -> str:
    """Upload a piece, or what there is of it; return the address of its run."""
    environment = {name: value for name, value in os.environ.items() if name not in ("WANDB_MODE", "WANDB_DIR")}
    command = [sys.executable, "-m", "wandb", "sync", str(piece)]
    print_text(f"sync     {piece}", sys.stderr)
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
    relevant = [line for line in lines if re.search(r"error|fail|authenticated|key|denied", line, re.IGNORECASE)]
    return (relevant or lines)[-1].removeprefix("wandb: ")
