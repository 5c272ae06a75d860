"""`elmo status` on a login node with a real queue."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from data_prep.dataset.files import write_json
from tests import processes
from tests.slurm.cluster import Cluster, wait_until


def test_status_finds_the_jobs_of_a_run_in_the_queue(cluster: Cluster, tmp_path: Path) -> None:
    running = cluster.submit("--nodes=1", "--time=5", "--output=/dev/null", "--wrap=sleep 600")
    held = cluster.submit("--nodes=1", "--time=5", "--output=/dev/null", "--hold", "--wrap=true")
    try:
        wait_until(lambda: running.state == "RUNNING", "a job runs", cluster.logs)
        began = {"unix_time": time.time() - 1e6, "host": "n1", "slurm": {"job_id": str(held.id)}}
        write_json(tmp_path / "start.json", began)
        waiting = status(cluster, tmp_path)
        assert waiting["state"] == "killed" and waiting["next"].startswith(
            f"wait: job {held.id} is in the queue (JobHeld"
        )
        (job,) = waiting["jobs"]
        assert (job["job"], job["state"], job["limit"]) == (str(held.id), "PENDING", "5:00")
        assert waiting["other_jobs"] >= 1
        write_json(tmp_path / "start.json", began | {"slurm": {"job_id": str(running.id)}})
        alive = status(cluster, tmp_path)
        assert alive["state"] == "running" and alive["jobs"][0]["nodes"] in cluster.nodes
    finally:
        running.cancel()
        held.cancel()


def status(cluster: Cluster, run_dir: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "pipeline.cli", "status", str(run_dir), "--json"]
    shown: dict[str, Any] = json.loads(cluster.run("login", *command, cwd=str(processes.ROOT)))
    return shown
