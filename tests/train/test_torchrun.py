"""torchrun on two "machines", which are two loopback addresses: rendezvous, a killed worker, a stop, and mistakes."""

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from pipeline.config.schema import ConfigError
from pipeline.train.cluster.slurm_env import job_shape
from pipeline.train.cluster.torchrun_env import require_torchrun_shape
from tests.processes import Process
from tests.train import runs

MACHINES = ("127.0.0.2", "127.0.0.3")
EVERY = ["checkpoint.every_steps=20", "train.validate_every_steps=500", "train.epochs=100"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind((MACHINES[0], 0))
        return int(free.getsockname()[1])


def torchrun(folder: Path, processes: tuple[int, int], *command: str, restarts: int = 0) -> list[Process]:
    """Start `torchrun -m pipeline.cli pretrain` on both machines, with a number of processes on each."""
    port = free_port()
    return [
        Process(
            "--nnodes=2", f"--nproc-per-node={here}", f"--max-restarts={restarts}", "--rdzv-backend=c10d",
            f"--rdzv-endpoint={MACHINES[0]}:{port}", f"--rdzv-id={folder.name}", f"--local-addr={address}",
            "--monitor-interval=0.1", "-m", "pipeline.cli", "pretrain", *command,
            environment={"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            log=folder / f"torchrun-{address}.{time.monotonic_ns()}.log", module="torch.distributed.run",
        )
        for address, here in zip(MACHINES, processes, strict=True)
    ]  # fmt: skip


def end(agents: list[Process]) -> str:
    """Wait for the end of all processes; return what they printed."""
    try:
        codes = [agent.wait() for agent in agents]
    finally:
        for agent in agents:
            agent.popen.kill()
    printed = "\n".join(agent.output() for agent in agents)
    assert codes == [0, 0], printed
    return printed


def workers(agent: Process) -> list[psutil.Process]:
    return [child for child in psutil.Process(agent.popen.pid).children() if "pipeline.cli" in child.cmdline()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_with_a_killed_worker_equals_the_run_of_one_machine_bitwise(dataset: Path, tmp_path: Path) -> None:
    settings = [*EVERY, "train.max_steps=400"]
    agents = torchrun(tmp_path, (1, 1), *runs.arguments(dataset, tmp_path / "two", *settings), restarts=3)
    assert agents[1].wait_until(lambda: runs.last_step(tmp_path / "two") >= 50), agents[0].output()
    (victim,) = workers(agents[1])
    victim.kill()
    printed = end(agents)
    assert "resumed at step " in printed, printed
    runs.run(dataset, tmp_path / "one", *settings, "train.devices=2")
    assert runs.newest(tmp_path / "two")["global_step"] == 400
    assert list(runs.differences(runs.newest(tmp_path / "two"), runs.newest(tmp_path / "one"))) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_requested_stop_ends_all_machines_and_the_same_command_resumes(dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    agents = torchrun(tmp_path, (1, 1), *runs.arguments(dataset, run_dir, *EVERY), restarts=3)
    assert agents[0].wait_until(lambda: runs.last_step(run_dir) >= 10), agents[0].output()
    (run_dir / "stop").touch()
    assert "to resume: " in end(agents)
    step = runs.newest(run_dir)["global_step"]
    more = [*EVERY, f"train.max_steps={step + 5}"]
    assert f"resumed at step {step}" in end(torchrun(tmp_path, (1, 1), *runs.arguments(dataset, run_dir, *more)))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_workers_of_a_machine_end_when_its_torchrun_ends(dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    agents = torchrun(tmp_path, (1, 1), *runs.arguments(dataset, run_dir, *EVERY))
    assert agents[0].wait_until(lambda: runs.last_step(run_dir) >= 3), agents[0].output()
    started = [worker for agent in agents for worker in workers(agent)]
    for agent in agents:
        os.kill(agent.popen.pid, signal.SIGKILL)
        agent.popen.wait()
    assert psutil.wait_procs(started, timeout=60)[1] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigterm_to_torchrun_ends_all_workers_with_a_checkpoint_that_can_be_resumed(
    dataset: Path, tmp_path: Path
) -> None:
    run_dir, settings = tmp_path / "run", ["checkpoint.every_steps=100000", *EVERY[1:]]
    agent = Process(
        "--standalone", "--nproc-per-node=2", "--monitor-interval=0.1", "-m", "pipeline.cli", "pretrain",
        *runs.arguments(dataset, run_dir, *settings), log=tmp_path / "log", module="torch.distributed.run",
    )  # fmt: skip
    assert agent.wait_until(lambda: runs.last_step(run_dir) >= 3), agent.output()
    started = workers(agent)
    agent.popen.send_signal(signal.SIGTERM)
    assert agent.wait() == 1  # torchrun raises SignalException
    assert psutil.wait_procs(started, timeout=60)[1] == [] and len(started) == 2
    step = runs.newest(run_dir)["global_step"]
    assert f"stopped at step {step:,} of " in agent.output() and "to resume: " in agent.output()
    resumed = runs.run_ranks(dataset, run_dir, 2, *settings, f"train.max_steps={step + 2}")
    assert f"resumed at step {step:,}" in resumed


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_unequal_machines_are_refused_in_one_sentence(dataset: Path, tmp_path: Path) -> None:
    agents = torchrun(tmp_path, (1, 2), *runs.arguments(dataset, tmp_path / "run"))
    for agent, here in zip(agents, (1, 2), strict=True):
        assert agent.wait() == 1
        refused = f"elmo pretrain: torchrun started 3 processes on 2 machines, {here} of them here; give the same"
        assert refused in agent.output()
    assert not (tmp_path / "run").exists()


def environment(monkeypatch: pytest.MonkeyPatch, nodes: int, here: int, total: int) -> None:
    values = {"TORCHELASTIC_RUN_ID": "a", "GROUP_WORLD_SIZE": nodes, "LOCAL_WORLD_SIZE": here, "WORLD_SIZE": total}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


def test_torchrun_decides_the_shape_of_a_run_inside_a_slurm_job_too(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, 2, 4, 8)
    assert job_shape() == ["train.nodes=2", "train.devices=4"]
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert job_shape() == ["train.nodes=2", "train.devices=4"]


def test_restarts_need_a_store_for_each_start(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, 2, 4, 8)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    job_shape()
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(ConfigError, match=r"--max-restarts=3 .* only with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        job_shape()


def test_a_number_of_processes_that_differs_from_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_torchrun_shape(1, 3)
    environment(monkeypatch, 2, 4, 8)
    require_torchrun_shape(2, 4)
    with pytest.raises(ConfigError, match=r"train.nodes=1 x train.devices=4 is not the 8 processes that torchrun"):
        require_torchrun_shape(1, 4)
