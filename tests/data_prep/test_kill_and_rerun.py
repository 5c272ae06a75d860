"""A preparation that is killed, has no room on the disk, or is divided over jobs gives the same bytes as one run."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest

from data_prep.dataset.files import DataError
from data_prep.prepare import prepare as prepare_with_workers
from tests.corpora import bytes_of, write_corpus

OPTIONS = {"heldout": 100, "shard_tokens": 4000, "chunk_tokens": 500, "show_progress": False}


@pytest.fixture
def undisturbed(prepare, corpus, tmp_path) -> dict[str, str]:
    prepare(corpus, tmp_path / "undisturbed", **OPTIONS)
    return bytes_of(tmp_path / "undisturbed")


def in_child(action) -> int:
    """Run `action` in a forked process; return its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def test_a_rerun_after_a_kill_before_or_after_any_rename_gives_the_same_bytes(prepare, corpus, tmp_path, undisturbed):
    renames = 0
    killed = True
    while killed:  # kill it at the first rename, then at the second, and so on, until a run ends
        renames += 1
        shutil.rmtree(tmp_path / "out", ignore_errors=True)

        def die_at(number: int = renames) -> None:
            real, done = os.replace, 0

            def replace(source: str, target: str) -> None:
                nonlocal done
                done += 1
                if done == number and number % 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                real(source, target)
                if done == number:
                    os.kill(os.getpid(), signal.SIGKILL)

            os.replace = replace
            prepare(corpus, tmp_path / "out", **OPTIONS)

        killed = in_child(die_at) == signal.SIGKILL
        prepare(corpus, tmp_path / "out", **OPTIONS)
        assert bytes_of(tmp_path / "out") == undisturbed
    assert renames > 50


def test_a_preparation_killed_repeatedly_at_random_ends_with_the_same_bytes(prepare, corpus, tmp_path, undisturbed):
    chance = random.Random(4)
    for number in range(12):
        out = tmp_path / f"out-{number}"
        kills = 0
        while not (out / "index.json").exists() and kills < 3:
            pid = os.fork()
            if pid == 0:
                prepare(corpus, out, **OPTIONS)
                os._exit(0)
            time.sleep(chance.uniform(0, 0.25))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            kills += 1
        prepare(corpus, out, **OPTIONS)
        assert bytes_of(out) == undisturbed


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bytes(corpus, tmp_path, undisturbed, workers):
    prepare_with_workers(corpus, tmp_path / "out", workers=workers, **OPTIONS)
    assert bytes_of(tmp_path / "out") == undisturbed


def run_elsewhere(corpus: list[str], out: Path) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from data_prep.prepare import prepare\n"
        f"if __name__ == '__main__': prepare(sys.argv[2:], sys.argv[1], workers=2, **{OPTIONS!r})"
    )
    script = out.parent / "run.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.Popen([sys.executable, str(script), str(out), *corpus], env=environment, stderr=subprocess.PIPE)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through Linux's /proc")
def test_workers_end_when_their_parent_is_killed_and_a_rerun_resumes(prepare, corpus, tmp_path, undisturbed):
    process = run_elsewhere(corpus, tmp_path / "out")
    while len(workers := children_of(process.pid)) < 3 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    prepare(corpus, tmp_path / "out", **OPTIONS)
    assert bytes_of(tmp_path / "out") == undisturbed


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the workers through Linux's /proc")
def test_a_killed_worker_is_reported_as_one_error_without_a_hang(prepare, corpus, tmp_path, undisturbed):
    process = run_elsewhere(corpus, tmp_path / "out")
    while len(workers := children_of(process.pid)) < 3 and process.poll() is None:
        time.sleep(0.02)
    os.kill(workers[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        errors.decode()
        .strip()
        .splitlines()[-1]
        .startswith("data_prep.dataset.files.DataError: a worker process was killed")
    )
    prepare(corpus, tmp_path / "out", **OPTIONS)
    assert bytes_of(tmp_path / "out") == undisturbed


def test_an_error_in_a_worker_is_reported_as_in_one_process(corpus, tmp_path):
    Path(corpus[2]).write_bytes(b"fine\n\xff\n")
    with pytest.raises(DataError, match=r"part-2\.txt, line 2 is not UTF-8"):
        prepare_with_workers(corpus, tmp_path / "out", workers=2, **OPTIONS)
    assert not list((tmp_path / "out").glob("**/*.tmp"))


def test_tasks_of_a_job_array_in_any_order_give_the_same_bytes(prepare, corpus, tmp_path, undisturbed):
    out = tmp_path / "out"
    assert "2 of 4 units" in prepare(corpus, out, step="encode", task=1, tasks=2, **OPTIONS).pending
    with pytest.raises(DataError, match="2 of 4 units are not encoded"):
        prepare(corpus, out, step="merge", **OPTIONS)
    assert "next: step=merge" in prepare(corpus, out, step="encode", task=0, tasks=2, **OPTIONS).pending
    with pytest.raises(DataError, match="run step=merge first"):
        prepare(corpus, out, step="shard", **OPTIONS)
    for _ in range(2):  # twice, as after a kill at its very end
        assert "0 of " in prepare(corpus, out, step="merge", **OPTIONS).pending
    assert not list(out.glob(".work/unit-*/spill-*/words.txt")), "of rare words they take more than the ids do"
    for task in (2, 0):
        assert "next: step=shard" in prepare(corpus, out, step="shard", task=task, tasks=3, **OPTIONS).pending
    assert not prepare(corpus, out, step="shard", task=1, tasks=3, **OPTIONS).pending
    assert bytes_of(out) == undisturbed


@pytest.mark.parametrize(
    ("name", "limit", "workers"),
    [
        ("spill-0000", 6_000, 1),  # more than a page, which multiprocessing needs for its counters
        ("spill-0000", 8_000, 2),
        ("lexicon.tsv", 16_800, 1),  # the file has 16,882 bytes; the largest spill has 16,731
        ("train-000000.tar", 18_000, 1),
    ],
)
def test_a_full_disk_is_reported_as_one_error_and_a_rerun_resumes(corpus, tmp_path, undisturbed, name, limit, workers):
    def with_little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # of each file: a disk cannot be filled here
        with pytest.raises(DataError, match=f"no room to write .*{name}.* run the same command again: finished parts"):
            prepare_with_workers(corpus, tmp_path / "out", workers=workers, **OPTIONS)

    assert in_child(with_little_room) == 0
    assert not list((tmp_path / "out").glob("**/*.tmp")) and not (tmp_path / "out" / "index.json").exists()
    prepare_with_workers(corpus, tmp_path / "out", workers=1, **OPTIONS)
    assert bytes_of(tmp_path / "out") == undisturbed


def test_a_rerun_with_the_same_input_and_options_changes_nothing(prepare, corpus, tmp_path, undisturbed):
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "undisturbed").iterdir()}
    summary = prepare(corpus, tmp_path / "undisturbed", **OPTIONS)
    assert summary.already_done and "prepared already" in str(summary)
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "undisturbed").iterdir()}


def test_a_rerun_with_other_input_or_options_is_refused_with_the_differences(prepare, corpus, tmp_path, undisturbed):
    out = tmp_path / "undisturbed"
    for inputs, options, message in (
        (corpus, {"seed": 3}, "seed: 0 -> 3"),
        (corpus, {"heldout": 0.1}, "heldout: 100 -> 0.1"),
        (corpus[:3], {}, "train input part-3.txt is gone"),
        ([*corpus[:2], *corpus[:1:-1]], {}, "the order of the inputs"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(inputs, out, **(OPTIONS | options))
    with open(corpus[0], "a") as file:
        file.write("one more\n")
    with pytest.raises(DataError, match=r"part-0.txt has changed \(size or time\).*overwrite=true"):
        prepare(corpus, out, **OPTIONS)
    assert bytes_of(out) == undisturbed
    prepare(corpus, out, overwrite=True, **OPTIONS)
    assert bytes_of(out) != undisturbed


def test_an_unfinished_preparation_is_not_continued_with_other_options(prepare, corpus, tmp_path):
    prepare(corpus, tmp_path / "out", step="encode", **OPTIONS)
    with pytest.raises(DataError, match=r"an unfinished preparation made otherwise .seed: 0 -> 3"):
        prepare(corpus, tmp_path / "out", **OPTIONS, seed=3)
    prepare(corpus, tmp_path / "out", **OPTIONS, seed=3, overwrite=True)


def test_a_folder_that_holds_other_files_is_refused(prepare, corpus, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(DataError, match=r"holds thesis\.txt and is no dataset"):
        prepare(corpus, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_two_preparations_into_one_folder_exclude_each_other(prepare, corpus, tmp_path):
    from data_prep.workspace import Workspace

    with Workspace(tmp_path / "out").locked(shared=False), pytest.raises(DataError, match="another process"):
        prepare(corpus, tmp_path / "out")


def test_many_small_files_and_few_workers_leave_only_the_dataset(tmp_path):
    paths = write_corpus(tmp_path / "corpus", files=30, sentences=3)
    prepare_with_workers(paths, tmp_path / "out", workers=2, show_progress=False)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".prepare.lock",
        ".prepared.json",
        "index.json",
        "lexicon.counts.npy",
        "lexicon.offsets.npy",
        "lexicon.tsv",
        "lexicon.utf8.npy",
        "train-000000.tar",
    ]
