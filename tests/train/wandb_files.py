"""wandb's own files of a run, read with wandb's own tool."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import processes


def pieces(run_dir: Path) -> list[Path]:
    """Return a folder for each start of the run, the oldest first."""
    return sorted((run_dir / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_ctime_ns)


def records(piece: Path) -> list[dict[str, Any]]:
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(piece)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=processes.clean_environment())
    return [json.loads(line) for line in done.stdout.splitlines()]


def exit_codes(run_dir: Path) -> list[int]:
    """Return the exit code of each piece that was closed properly."""
    found = [record["exit"] for piece in pieces(run_dir) for record in records(piece) if record["type"] == "exit"]
    return [values.get("exit_code", 0) for values in found]
