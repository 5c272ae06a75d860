"""A pretraining as a job of the temporary cluster: submit it, watch it, disturb it, and compare it with another."""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.train.run_dir.checkpoint import load_checkpoint
from tests.slurm.cluster import Cluster, Job, wait_until
from tests.train import runs

ROOT = Path(__file__).resolve().parents[2]
ELMO = Path(sys.executable).with_name("elmo")
SETTINGS = [
    "train.epochs=100", "checkpoint.every_steps=10", "train.validate_every_steps=100", "wandb.mode=disabled",
]  # fmt: skip


@dataclass
class Training:
    """A run in `folder`/run, continued by job after job. took: for each event, the seconds until the next step."""

    cluster: Cluster
    dataset: Path
    folder: Path
    job: Job | None = None
    took: dict[str, float] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def submit(self, *options: str, settings: tuple[str, ...] = (), elmo: Path = ELMO) -> Job:
        """Submit a job, by default of two nodes with one process each."""
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "config.yaml"
        config.write_text("data:\n  lanes: 8\n")
        shape = ["--nodes=2", "--gpus-per-node=1", "--cpus-per-gpu=1", "--time=120"]
        arguments = runs.arguments(self.dataset, self.run_dir, *SETTINGS, *settings)
        self.job = self.cluster.submit(
            *shape, f"--output={self.folder}/job-%j.log", *options, "slurm/pretrain.sbatch", str(config), *arguments,
            cwd=ROOT, environment={"ELMO": str(elmo)},
        )  # fmt: skip
        return self.job

    def log(self) -> str:
        """Return what the batch scripts and the ranks printed, for the message of a failing test."""
        files = [*sorted(self.folder.glob("job-*.log")), *sorted(self.run_dir.glob("logs/*"))]
        facts = self.job.facts() if self.job else {}
        facts_shown = {name: facts.get(name) for name in ("JobState", "Reason", "NodeList", "Restarts", "ExcNodeList")}
        return f"{facts_shown}\n" + "\n".join(f"--- {f.name}\n" + f.read_text(errors="replace")[-6000:] for f in files)

    def rank_log(self) -> str:
        """Return what rank 0 printed in all starts."""
        return (self.run_dir / "logs" / "rank-000.log").read_text(errors="replace")

    def batch_log(self) -> str:
        """Return what the batch script printed in all starts of the last job."""
        assert self.job is not None
        path = self.folder / f"job-{self.job.id}.log"
        return path.read_text() if path.exists() else ""

    @property
    def step(self) -> int:
        return runs.last_step(self.run_dir)

    def wait_for_step(self, step: int) -> float:
        return wait_until(lambda: self.step >= step or self.fail_if_over(), f"step {step}", self.log)

    def fail_if_over(self) -> None:
        assert self.job is not None and self.cluster.is_up
        if int(time.monotonic() * 20) % 40 == 0:  # not every time, because scontrol is slow
            assert not self.job.has_ended(), f"the job is over\n{self.log()}"

    def survive(self, what: str, event: Callable[[], Any]) -> None:
        """Train a little, cause the event, and wait until the next start of the job trains."""
        self.wait_for_step(self.step + 3)
        assert self.job is not None
        starts, before = self.starts(), time.monotonic()
        event()
        wait_until(lambda: self.starts() > starts or self.fail_if_over(), f"{what}: started again", self.log)
        here = self.step
        wait_until(lambda: self.trained_by_this_start(here), f"{what}: trains again", self.log)
        self.took[what] = round(time.monotonic() - before, 1)

    def starts(self) -> int:
        """Return how many processes of rank 0 have read a checkpoint."""
        path = self.run_dir / "logs" / "rank-000.log"
        return path.read_text(errors="replace").count("\nplan     ") if path.exists() else 0

    def trained_by_this_start(self, before: int) -> bool:
        self.fail_if_over()
        start = json.loads((self.run_dir / "start.json").read_text())
        metrics = self.run_dir / "metrics.jsonl"
        return self.step > start["step"] and metrics.stat().st_mtime > start["unix_time"]

    def stop(self) -> None:
        """Train a little, then end with a checkpoint by creating the file `stop`."""
        self.wait_for_step(self.step + 3)
        (self.run_dir / "stop").touch()
        state = self.wait_for_end()
        assert state == "COMPLETED" and not (self.run_dir / "stop").exists(), self.log()
        assert runs.saved_steps(self.run_dir)[-1] == self.step, self.log()

    def wait_for_end(self) -> str:
        """Wait for the end of the job; return its last state."""
        assert self.job is not None
        wait_until(self.job.has_ended, "the job ends", self.log)
        return self.job.state

    def rank(self, number: int) -> tuple[str, int]:
        """Return (node, process id on that node) of a rank."""
        assert self.job is not None
        nodes = self.cluster.run("login", "scontrol", "show", "hostnames", self.job.facts()["NodeList"]).split()
        return nodes[number], min(self.processes(nodes[number]))

    def processes(self, node: str) -> list[int]:
        """Return the processes of this training on a node.

        The pattern does not match the batch script or srun, although their commands contain the same words.
        """
        pattern = rf"^\S*python\S* \S*elmo pretrain .*run.dir={self.run_dir} "
        return [int(pid) for pid in self.cluster.run(node, "pgrep", "-f", pattern, check=False).split()]

    def signal_rank(self, number: int, name: str) -> None:
        node, pid = self.rank(number)
        self.cluster.run(node, "kill", f"-{name}", str(pid))

    def holder(self) -> dict[str, Any]:
        """Return who may write the run's folder."""
        return dict(json.loads((self.run_dir / "writer.json").read_text()))

    def reasons(self) -> list[str]:
        """Return why the job was restarted, for each restart."""
        path = self.run_dir / "restarts.jsonl"
        return [json.loads(line)["reason"] for line in path.read_text().splitlines()] if path.exists() else []

    def differences(self, undisturbed: Path) -> list[str]:
        """Return where the last checkpoint differs in any bit from that of another run at the same step."""
        mine = runs.newest(self.run_dir)
        name = f"step-{mine['global_step']:08d}.ckpt"
        return list(runs.differences(load_checkpoint(undisturbed / "checkpoints" / name), mine))


def node_list(*nodes: str) -> str:
    return f"--nodelist={','.join(nodes)}"


def report(trainings: list[Training]) -> None:
    """Write the times for the table in docs/guide/slurm.md, if ELMO_SLURM_TIMES names a file."""
    path = os.environ.get("ELMO_SLURM_TIMES")
    if path:
        Path(path).write_text(json.dumps({k: v for t in trainings for k, v in t.took.items()}, indent=1))
