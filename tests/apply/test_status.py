"""`elmo status` of real runs: at their end, while they train, killed, stopped, damaged, waiting in a queue."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.dataset.files import write_json
from pipeline.apply.watch.status import Status, duration, read_status, render
from pipeline.cli import main
from pipeline.train.run_dir.lock import is_claimed
from pipeline.train.run_dir.records import read_restarts
from tests import processes
from tests.train import runs


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("finished") / "run"
    runs.train_here(dataset, run_dir, "train.max_steps=6", "train.validate_every_steps=2", "checkpoint.every_steps=3")
    return run_dir


def test_a_finished_run_is_shown_with_its_numbers(finished: Path, dataset: Path) -> None:
    status = read_status(finished)
    assert (status.state, status.step, status.total_steps, status.tokens) == ("finished", 6, 6, 6 * 80)
    assert status.checkpoint["step"] == 6 and status.checkpoints == 2 and not status.damaged
    assert status.held_out["step"] == 6 and status.held_out["perplexity_forward"] > 1
    shown = render(status)
    assert "finished, step 6 of 6" in shown and f"held out {status.held_out['perplexity']:.2f}" in shown
    assert f"elmo evaluate checkpoint={finished} data={dataset}" in shown
    speed = status.metrics["speed/tokens_per_second"]
    assert status.epoch_hours == pytest.approx(4442 / speed / 3600) and ", an epoch in " in shown


def test_status_imports_neither_torch_nor_wandb(finished: Path) -> None:
    """These imports would make the command slow on a login node. A limit on time would depend on the machine."""
    code = (
        f"import sys; from pipeline.cli import main; main(['status', {str(finished)!r}])\n"
        "print('imported:', *sorted({'torch', 'wandb', 'pytorch_lightning', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=processes.ROOT)
    assert done.stdout.splitlines()[-1] == "imported:", done.stderr


def test_json_has_one_line_for_each_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(finished), str(finished), "--json"]) == 0
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["state"] == second["state"] == "finished" and first["checkpoint"]["step"] == 6
    assert first["eta_hours"] is None


def test_watching_ends_with_the_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(finished), "--watch"]) == 0
    assert capsys.readouterr().out.count("finished, step 6") == 1


@pytest.mark.slow
def test_the_status_follows_a_run_through_a_kill_to_its_end(dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = runs.start(dataset, run_dir, "train.max_steps=100000", "train.epochs=1e6", "checkpoint.every_steps=2")
    assert process.wait_until(lambda: runs.last_step(run_dir) > 3)
    training = read_status(run_dir)
    assert training.state == "running" and training.pid == process.popen.pid and training.eta_hours is not None
    assert "running on" in render(training) and "--watch" in training.next
    process.kill_group()
    killed = read_status(run_dir)
    assert killed.state == "killed" and killed.eta_hours is None and killed.checkpoint["step"] >= 2
    command = killed.next.rpartition(": ")[2].split()
    assert command[:2] == ["elmo", "pretrain"]
    last = killed.checkpoint["step"] + 3
    again = processes.Process(*command[1:], f"train.max_steps={last}", log=tmp_path / "again.log", forked=True)
    assert again.wait() == 0, again.output()
    assert (read_status(run_dir).state, read_status(run_dir).step) == ("finished", last)


@pytest.mark.slow
def test_the_status_of_a_run_stopped_by_a_signal_names_the_signal(dataset: Path, tmp_path: Path) -> None:
    process = runs.start(dataset, tmp_path / "run", "train.max_steps=100000", "train.epochs=1e6")
    assert process.wait_until(lambda: runs.last_step(tmp_path / "run") > 1)
    process.signal_group(15)
    assert process.wait() == 75
    status = read_status(tmp_path / "run")
    assert status.state == "stopped" and status.ended == f"step {status.step:,} of 100,000"
    assert "stopped by SIGTERM, step" in render(status)
    assert status.next.startswith(f"to resume from step {status.step:,}: elmo pretrain")


def a_run(folder: Path, **start: object) -> Path:
    """Write the folder of a run on another machine that has logged one step."""
    folder.mkdir()
    facts = {"unix_time": time.time() - 60, "host": "node7", "pid": 1, "total_steps": 1000, "slurm": {}}
    write_json(folder / "start.json", facts | start)
    record = {
        "trainer/global_step": 50, "train/tokens": 4000, "train/epoch": 0.5, "train/bad_steps": 2, "speed/eta_hours": 60
    }  # fmt: skip
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def test_records_between_log_steps_hide_no_figures(tmp_path: Path) -> None:
    """Norms and validations have steps of their own, and only some of the figures."""
    run_dir = a_run(tmp_path / "run")
    between = {"trainer/global_step": 60, "train/tokens": 4800, "val/perplexity": 300.0}
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(between) + "\n")
    status = read_status(run_dir)
    assert (status.step, status.tokens, status.epoch) == (60, 4800, 0.5)
    assert status.eta_hours == pytest.approx(60, abs=0.1) and "2 BAD STEPS" in render(status)


def test_a_run_on_another_node_counts_as_running_while_it_logs(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path / "run")
    status = read_status(run_dir)
    assert status.state == "running" and status.eta_hours == pytest.approx(60, abs=0.1)
    assert "running on node7" in render(status) and "2 BAD STEPS" in render(status) and "in 2.5 days" in render(status)
    long_ago = time.time() - 3600
    os.utime(run_dir / "metrics.jsonl", (long_ago, long_ago))
    write_json(run_dir / "start.json", {"unix_time": long_ago - 3600, "host": "node7"})
    assert read_status(run_dir).state == "killed"


def test_damaged_checkpoints_are_named_without_reading_them(dataset: Path, tmp_path: Path) -> None:
    runs.train_here(
        dataset, tmp_path / "run", "train.max_steps=6", "checkpoint.every_steps=2", "checkpoint.keep_last=3"
    )
    folder = tmp_path / "run" / "checkpoints"
    os.truncate(folder / "step-00000006.ckpt", 10)
    (folder / "step-00000004.json").write_text('{"step": 4')
    status = read_status(tmp_path / "run")
    assert status.checkpoint["step"] == 2 and status.checkpoints == 1
    shown = render(status)
    assert (
        "DAMAGED" in shown
        and "step-00000006: it has 10 bytes instead of" in shown
        and "step-00000004: its rec" in shown
    )


def test_restarts_are_shown_with_their_reasons(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path / "run")
    lines = [{"unix_time": time.time() - 7200, "reason": "time limit", "step": 40, "job": "12"}, {"reason": "hung"}]
    (run_dir / "restarts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '[3]\n{"reason": "cu')
    assert read_restarts(run_dir) == lines
    (line,) = [line for line in render(read_status(run_dir)).splitlines() if line.startswith("restarts")]
    assert line == "restarts    2; last: hung at step ?; time limit at step 40 2.0 h ago, job 12"


@pytest.mark.parametrize("how", ["", "hung"])
def test_jobs_of_the_run_in_the_queue_are_shown(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a script as squeue that prints what Slurm's squeue prints in that format."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        "#!/bin/sh\necho '123|elmo|PENDING|0:00|1-00:00:00||Resources'\necho '99|other|RUNNING|1:00|2:00|n1|None'\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    run_dir = a_run(tmp_path / "run", slurm={"job_id": "123"}, unix_time=time.time() - 1e6)
    long_ago = time.time() - 1e5
    os.utime(run_dir / "metrics.jsonl", (long_ago, long_ago))
    if how:
        (run_dir / "end.json").write_text(json.dumps({"how": how}))
    status = read_status(run_dir)
    assert status.state == (how or "killed")
    assert [job["job"] for job in status.jobs] == ["123"] and status.other_jobs == 1
    assert "job 123 PENDING 0:00 of 1-00:00:00 Resources; 1 other job of yours" in render(status)
    assert status.next == "wait: job 123 is in the queue (Resources) and resumes by itself"


def test_the_queue_is_read_for_a_user_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container a user may have no line in /etc/passwd. squeue and Slurm also know users by number."""
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "asked"}\n')
    squeue.chmod(0o755)
    run_dir = a_run(tmp_path / "run", slurm={"job_id": "123"})
    (tmp_path / "passwd").write_text("")
    code = (
        "import pwd, sys; from pathlib import Path; from pipeline.apply.watch.status import read_status; "
        "pwd.getpwuid = {}.__getitem__; read_status(Path(sys.argv[1]))"
    )
    environment = {"PATH": f"{squeue.parent}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-c", code, str(run_dir)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert f"--user={os.getuid()} " in (tmp_path / "asked").read_text()


def test_the_status_of_a_run_that_hung_names_its_log_and_how_to_resume(tmp_path: Path) -> None:
    run_dir = a_run(tmp_path / "run")
    (run_dir / "end.json").write_text('{"how": "hung"}')
    status = read_status(run_dir)
    assert status.state == "hung"
    assert status.next.startswith("its log has the stacks of all threads; to resume from step ")


def test_checking_a_lock_does_not_take_it(dataset: Path, tmp_path: Path) -> None:
    assert not is_claimed(tmp_path)
    runs.train_here(dataset, tmp_path, "train.max_steps=1")
    assert not is_claimed(tmp_path) and not is_claimed(tmp_path)
    runs.train_here(dataset, tmp_path, "train.max_steps=2")


def test_a_folder_that_holds_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert main(["status"]) == 2
    assert "takes a run folder" in capsys.readouterr().err


def test_a_run_whose_job_has_not_started_it_yet_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "code").mkdir()  # of slurm/submit.sh
    assert main(["status", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "not started" in shown and "squeue --me" in shown and "resume" not in shown


def test_a_run_with_few_records_is_shown_too(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert read_status(tmp_path).state == "new"
    assert render(Status("runs/x", "new")).splitlines() == ["run         runs/x: not started", "progress    step 0"]


@pytest.mark.parametrize(
    ("seconds", "message"),
    [(0, "0 s"), (-3, "0 s"), (89, "89 s"), (600, "10 min"), (7200, "2.0 h"), (4 * 86400, "4.0 days")],
)
def test_durations_are_printed_in_a_suitable_unit(seconds: float, message: str) -> None:
    assert duration(seconds) == message
