"""The processes of a training: a kill leaves none behind, and each error is reported in one sentence."""

import signal
import tarfile
from pathlib import Path

import numpy as np
import psutil
import pytest

from data_prep.dataset.files import DataError, UnreachableError
from data_prep.dataset.shards import Split
from pipeline.train.cluster import signals, stop_requests
from pipeline.train.cluster.stop_requests import Request, StopRequests
from pipeline.train.outcome import DataUnreachable
from pipeline.train.run_dir.lock import Writer
from pipeline.train.run_dir.records import read_end
from tests import processes
from tests.train import runs

ENDLESS = ["train.max_steps=100000", "train.epochs=100000", "train.validate_every_steps=100000"]

NPY_HEADER_BYTES = 128


def all_started_by(process: processes.Process) -> list[psutil.Process]:
    return psutil.Process(process.popen.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize("is_saving", [False, True])
def test_all_processes_of_a_training_end_when_only_the_main_one_is_killed(
    dataset: Path, tmp_path: Path, is_saving: bool
) -> None:
    run_dir = tmp_path / "run"
    every = 1 if is_saving else 100
    settings = ["data.workers=2", "train.devices=2", "wandb.mode=offline", f"checkpoint.every_steps={every}"]
    process = runs.start(dataset, run_dir, *ENDLESS, *settings)
    assert process.wait_until(lambda: runs.last_step(run_dir) >= 6), process.output()
    started = all_started_by(process)
    if is_saving:
        assert process.wait_until(lambda: any((run_dir / "checkpoints").glob(".*.tmp")))
    process.popen.kill()
    process.popen.wait()
    assert len(started) >= 2 + 1 + 2 + 1  # two loader processes for each of two ranks, rank 1, wandb
    assert psutil.wait_procs(started, timeout=30)[1] == []


@pytest.mark.slow
def test_a_killed_loader_process_is_not_reported_as_a_full_disk(dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = runs.start(dataset, run_dir, *ENDLESS, "data.workers=2", "checkpoint.every_steps=1")
    assert process.wait_until(lambda: runs.last_step(run_dir) >= 5), process.output()
    loader_process = all_started_by(process)[0]
    process.wait_until(lambda: any((run_dir / "checkpoints").glob(".*.tmp")))
    loader_process.kill()
    assert process.wait() == 1
    printed = process.output()
    assert "elmo pretrain: a loader process of rank 0 was killed after step" in printed
    assert "the last good checkpoint is" in printed
    assert "NO CHECKPOINT" not in printed and "Traceback" not in printed
    assert runs.saved_steps(run_dir)[-1] in (runs.last_step(run_dir) - 1, runs.last_step(run_dir))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_data_ends_a_training_with_one_sentence_and_its_last_checkpoint(tmp_path: Path, workers: int) -> None:
    dataset, run_dir = runs.make_dataset(tmp_path / "text"), tmp_path / "run"
    settings = [
        f"data.workers={workers}",
        "checkpoint.every_steps=4",
        "train.epochs=9",
        "train.validate_every_steps=99",
    ]
    runs.run(dataset, run_dir, *settings, "train.max_steps=8")
    for shard in dataset.glob("train-*.tar"):
        content = bytearray(shard.read_bytes())
        with tarfile.open(shard) as members:
            for member in members:
                start, end = member.offset_data + NPY_HEADER_BYTES, member.offset_data + member.size
                content[start:end] = np.full((end - start) // 4, 3, np.int32).tobytes()  # now no sentence has an end
        shard.write_bytes(content)
    printed = runs.run(dataset, run_dir, *settings, "train.max_steps=80", code=2)
    assert "Traceback" not in printed
    assert printed.strip().splitlines()[-1].startswith("elmo pretrain: ")
    assert "the last good checkpoint is" in printed.strip().splitlines()[-1]
    assert runs.saved_steps(run_dir)[-1] == 8


@pytest.mark.slow
def test_ranks_with_different_candidates_are_named_in_one_sentence(dataset: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = runs.start(
        dataset, run_dir, *ENDLESS, "train.devices=2", "checkpoint.every_steps=4", module="tests.train.odd_rank"
    )
    assert process.wait() == 1, process.output()
    printed = process.output()
    assert "elmo pretrain: of 2 ranks, these have other candidates than the rest: 1; " in printed
    assert "the last good checkpoint is" in printed and "step-00000004.ckpt" in printed
    assert "Traceback" not in printed
    assert runs.last_step(run_dir) == 5


@pytest.mark.slow
def test_ranks_with_unlike_processors_are_refused_at_the_start(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ODD", "processor")
    process = runs.start(dataset, tmp_path / "run", *ENDLESS, "train.devices=2", module="tests.train.odd_rank")
    assert process.wait() == 1, process.output()
    printed = process.output()
    assert "of 2 ranks, these have other processor instructions (they round differently) than the rest: 1; " in printed
    assert "Traceback" not in printed and not list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


class Failing:
    """Raise an error from the fourth call on."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.calls = error, 0

    def __call__(self, writer: Writer) -> None:
        self.calls += 1
        if self.calls > 3:  # one call at the start, two calls a save
            raise self.error


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), SystemExit(7)])
def test_a_save_that_fails_for_another_reason_than_the_disk_ends_the_run(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    failing = Failing(error)
    monkeypatch.setattr(Writer, "check", lambda writer: failing(writer))
    with pytest.raises(type(error)) as raised:
        runs.train_here(dataset, tmp_path / "run", "checkpoint.every_steps=2", "train.max_steps=8")
    assert raised.value is error
    assert runs.saved_steps(tmp_path / "run") == [2]
    assert "NO CHECKPOINT" not in caplog.text
    assert isinstance(error, SystemExit) or "step-00000002.ckpt" in caplog.text


@pytest.fixture
def without_a_pause_between_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_requests, "_SECONDS_BETWEEN_READS", 0.0)


def test_a_folder_that_cannot_be_read_makes_no_request_and_is_read_again(
    tmp_path: Path, without_a_pause_between_reads: None, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    run_dir.write_text("not a folder")  # an OSError, like ESTALE and EIO
    found = StopRequests(run_dir)
    assert not any(found.poll() for _ in range(3))
    assert caplog.text.count("run.dir does not answer") == 1
    run_dir.unlink()
    run_dir.mkdir()
    (run_dir / "stop").touch()
    assert found.poll() is Request.STOP


def test_a_file_that_cannot_be_removed_is_handled_once_and_removed_later(
    tmp_path: Path, without_a_pause_between_reads: None
) -> None:
    found = StopRequests(tmp_path)
    (tmp_path / "save").mkdir()  # unlink cannot remove a folder
    assert found.poll() is Request.SAVE
    found.handled(Request.SAVE)
    assert found.poll() is Request.NONE
    (tmp_path / "save").rmdir()
    assert found.poll() is Request.NONE
    (tmp_path / "save").touch()
    assert found.poll() is Request.SAVE


def test_a_signal_that_stopped_a_training_does_not_stop_the_next_training(dataset: Path, tmp_path: Path) -> None:
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    signals.install()
    try:
        signal.raise_signal(signal.SIGTERM)
        assert runs.train_here(dataset, tmp_path / "run", "train.max_steps=4").stopped
        outcome = runs.train_here(dataset, tmp_path / "run", "train.max_steps=4")
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
    assert not outcome.stopped and outcome.step == 4


@pytest.mark.parametrize(
    ("kind", "raised", "how"), [(UnreachableError, DataUnreachable, None), (DataError, DataError, "refused")]
)
def test_data_that_cannot_be_read_now_is_no_refusal(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: type[DataError],
    raised: type[Exception],
    how: str | None,
) -> None:
    """Slurm queues a job again after a crash, and not after a refusal (slurm/requeue.py)."""
    whole, calls = Split.chunk, []

    def chunk(split: Split, number: int) -> np.ndarray:
        calls.append(number)
        if len(calls) > 4:
            raise kind("the shard is stale")
        return whole(split, number)

    monkeypatch.setattr(Split, "chunk", chunk)
    with pytest.raises(raised, match="the shard is stale; "):
        runs.train_here(dataset, tmp_path / "run", "train.max_steps=100000", "train.epochs=100000", "data.workers=0")
    assert read_end(tmp_path / "run").get("how") == how
