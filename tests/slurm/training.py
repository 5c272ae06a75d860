"""A pretraining as a job of the throwaway cluster: submitted, watched, tormented, and held against another."""

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
    """A run in `folder`/run by job after job; `took` says how long it was away after each event, in seconds."""

    cluster: Cluster
    dataset: Path
    folder: Path
    job: Job | None = None
    took: dict[str, float] = field(default_factory=dict)

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"

    def submit(self, *options: str, settings: tuple[str, ...] = (), elmo: Path = ELMO) -> Job:
        """Two nodes of one process each, unless `options` say otherwise."""
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
        """What the batch scripts and the ranks said, for the message of a test that fails."""
        files = [*sorted(self.folder.glob("job-*.log")), *sorted(self.run_dir.glob("logs/*"))]
        facts = self.job.facts() if self.job else {}
        told = {name: facts.get(name) for name in ("JobState", "Reason", "NodeList", "Restarts", "ExcNodeList")}
        return f"{told}\n" + "\n".join(f"--- {f.name}\n" + f.read_text(errors="replace")[-6000:] for f in files)

    def rank_log(self) -> str:
        """What rank 0 said in all starts."""
        return (self.run_dir / "logs" / "rank-000.log").read_text(errors="replace")

    def said(self) -> str:
        """By the batch script, in all starts of the last job."""
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
        if int(time.monotonic() * 20) % 40 == 0:  # not at every look: scontrol costs
            assert not self.job.has_ended(), f"the job is over\n{self.log()}"

    def survive(self, what: str, event: Callable[[], Any]) -> None:
        """Trains a little, then the event, and then the next start of the job trains on."""
        self.wait_for_step(self.step + 3)
        assert self.job is not None
        starts, before = self.starts(), time.monotonic()
        event()
        wait_until(lambda: self.starts() > starts or self.fail_if_over(), f"{what}: started again", self.log)
        here = self.step
        wait_until(lambda: self.trained_by_this_start(here), f"{what}: trains again", self.log)
        self.took[what] = round(time.monotonic() - before, 1)

    def starts(self) -> int:
        """Of processes of rank 0 that have read a checkpoint."""
        path = self.run_dir / "logs" / "rank-000.log"
        return path.read_text(errors="replace").count("\nplan     ") if path.exists() else 0

    def trained_by_this_start(self, before: int) -> bool:
        self.fail_if_over()
        start = json.loads((self.run_dir / "start.json").read_text())
        metrics = self.run_dir / "metrics.jsonl"
        return self.step > start["step"] and metrics.stat().st_mtime > start["unix_time"]

    def stop(self) -> None:
        """Trains on for a little, then ends with a checkpoint because the file `stop` is there."""
        self.wait_for_step(self.step + 3)
        (self.run_dir / "stop").touch()
        state = self.wait_for_end()
        assert state == "COMPLETED" and not (self.run_dir / "stop").exists(), self.log()
        assert runs.saved_steps(self.run_dir)[-1] == self.step, self.log()

    def wait_for_end(self) -> str:
        """The job's last state."""
        assert self.job is not None
        wait_until(self.job.has_ended, "the job ends", self.log)
        return self.job.state

    def rank(self, number: int) -> tuple[str, int]:
        """(node, process id on that node) of a rank."""
        assert self.job is not None
        nodes = self.cluster.run("login", "scontrol", "show", "hostnames", self.job.facts()["NodeList"]).split()
        return nodes[number], min(self.processes(nodes[number]))

    def processes(self, node: str) -> list[int]:
        """Of this training on a node; not the batch script, nor srun, which has the same words in its command."""
        pattern = rf"^\S*python\S* \S*elmo pretrain .*run.dir={self.run_dir} "
        return [int(pid) for pid in self.cluster.run(node, "pgrep", "-f", pattern, check=False).split()]

    def signal_rank(self, number: int, name: str) -> None:
        node, pid = self.rank(number)
        self.cluster.run(node, "kill", f"-{name}", str(pid))

    def holder(self) -> dict[str, Any]:
        """Who may write the run's folder."""
        return dict(json.loads((self.run_dir / "writer.json").read_text()))

    def reasons(self) -> list[str]:
        """Why the job was started again, each time."""
        path = self.run_dir / "restarts.jsonl"
        return [json.loads(line)["reason"] for line in path.read_text().splitlines()] if path.exists() else []

    def differences(self, undisturbed: Path) -> list[str]:
        """Where its last checkpoint differs in any bit from that of another run at the same step."""
        mine = runs.newest(self.run_dir)
        name = f"step-{mine['global_step']:08d}.ckpt"
        return list(runs.differences(load_checkpoint(undisturbed / "checkpoints" / name), mine))


def node_list(*nodes: str) -> str:
    return f"--nodelist={','.join(nodes)}"


def report(trainings: list[Training]) -> None:
    """Times for the table in docs/guide/slurm.md, where ELMO_SLURM_TIMES names a file."""
    path = os.environ.get("ELMO_SLURM_TIMES")
    if path:
        Path(path).write_text(json.dumps({k: v for t in trainings for k, v in t.took.items()}, indent=1))
