"""A task under torchrun, which says how many processes train."""

import signal
from pathlib import Path

import pytest

from tests.processes import Process
from tests.tasks.training import arguments, last_state, make_files, task, weights

OPTIONS = ["training.max_epochs=1"]
STEPS_AN_EPOCH = 5  # 40 sentences in batches of 8


def torchrun(folder: Path, run: str, *options: str) -> Process:
    command = ["task", "ner", *arguments(folder, run), *options]
    launcher = ["--standalone", "--nproc-per-node=2", "--monitor-interval=0.1", "-m", "pipeline.cli"]
    return Process(*launcher, *command, log=folder / f"{run}.log", module="torch.distributed.run")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_decides_how_many_processes_train_a_task(tmp_path: Path) -> None:
    folder = make_files(tmp_path)
    launched = torchrun(folder, "torchrun", *OPTIONS)
    assert launched.wait() == 0, launched.output()
    assert launched.output().count("best on dev at step") == 1  # rank 0 prints the table
    devices = Process(
        "task", "ner", *arguments(folder, "devices"), *OPTIONS, "training.devices=2", log=folder / "devices.log"
    )
    assert devices.wait() == 0, devices.output()
    assert weights(folder, "torchrun") == weights(folder, "devices")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_task_whose_torchrun_is_stopped_saves_and_can_be_resumed(tmp_path: Path) -> None:
    folder = make_files(tmp_path)
    launched = torchrun(folder, "run", "training.max_epochs=100000", "training.validate_every_steps=2")
    assert launched.wait_until((folder / "run" / "last.ckpt").exists), launched.output()
    launched.popen.send_signal(signal.SIGTERM)
    assert launched.wait() == 1
    assert "which is saved; run the same command again to resume" in launched.output(), launched.output()
    saved = last_state(folder, "run")["state"]["step"]
    epochs = saved // STEPS_AN_EPOCH + 1
    assert task(folder, "run", f"training.max_epochs={epochs}", "training.validate_every_steps=2") == 0
    assert last_state(folder, "run")["state"]["step"] == epochs * STEPS_AN_EPOCH > saved


def test_another_number_of_processes_than_torchrun_started_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"TORCHELASTIC_RUN_ID": "a", "GROUP_WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 2, "WORLD_SIZE": 2, "RANK": 0}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    assert task(make_files(tmp_path), "run", "training.devices=3") == 2
    assert capsys.readouterr().err == (
        "elmo task: training.nodes=1 x training.devices=3 is not the 2 processes that torchrun started; leave both "
        "options out\n"
    )
    assert not (tmp_path / "run").exists()
