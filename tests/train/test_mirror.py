"""Checkpoints in an object store: the run resumes from them where its disk is gone, and never waits for them."""

import json
import logging
import shutil
import threading

import pytest

from data_prep.dataset.files import lock_file
from pipeline.config.schema import ConfigError
from pipeline.train.outcome import DataUnreachable
from pipeline.train.run_dir.checkpoint import CheckpointFolder
from pipeline.train.run_dir.copies import Copies
from pipeline.train.run_dir.mirror import Mirror
from tests.object_store import SECRET, Fault, Store
from tests.train import runs

URL, FOLDER = "s3://bucket/run", "bucket/run"
PAIRS = ["train.max_steps=20", "train.epochs=100", "checkpoint.every_steps=5", "train.validate_every_steps=10"]
MIRRORED = [*PAIRS, f"checkpoint.mirror={URL}"]


def mirrored_steps(store: Store) -> list[int]:
    return sorted(
        int(name[5:13]) for name in store.names(FOLDER) if name.startswith("step-") and name.endswith(".json")
    )


@pytest.mark.slow
def test_after_the_loss_of_its_disk_a_killed_run_goes_on_bit_for_bit(dataset, store, tmp_path):
    plain, run_dir = tmp_path / "plain", tmp_path / "run"
    seldom = ["checkpoint.every_steps=50", "train.validate_every_steps=50"]
    first = runs.start(dataset, run_dir, *MIRRORED, *seldom, "train.max_steps=5000", environment=store.environment)
    assert first.wait_until(lambda: mirrored_steps(store))
    first.kill_group()
    shutil.rmtree(run_dir)
    resumed = mirrored_steps(store)[-1]
    limit = f"train.max_steps={resumed + 10}"
    runs.run(dataset, plain, *PAIRS, *seldom, limit)
    said = runs.run(dataset, run_dir, *MIRRORED, *seldom, limit, environment=store.environment)
    assert f"resumed at step {resumed:,}" in said
    assert not list(runs.differences(runs.newest(plain), runs.newest(run_dir)))
    curve = {step: values for step, values in runs.curve(run_dir).items() if step <= resumed + 10}
    assert curve == runs.curve(plain), "earlier metrics come with the checkpoint, and later ones, as after any kill"
    assert SECRET not in said and SECRET not in (run_dir / "config.yaml").read_text()


def test_the_mirror_keeps_what_the_folder_keeps(dataset, store, tmp_path):
    run_dir = tmp_path / "run"
    runs.train_here(dataset, run_dir, *MIRRORED, "train.max_steps=40")
    here = {path.name: path.read_bytes() for path in (run_dir / "checkpoints").glob("step-*")}
    there = {name: store.get(f"{FOLDER}/{name}") for name in store.names(FOLDER) if name.startswith("step-")}
    assert here == there and len(here) in (4, 6)
    assert {"run.json", "metrics.jsonl"} < store.names(FOLDER)


def test_a_store_that_is_silent_holds_up_no_step(dataset, store, tmp_path):
    store.fault = lambda method, key: "hang" if method == "PUT" and key.endswith(".ckpt") else None
    process = runs.start(dataset, tmp_path / "run", *MIRRORED, environment=store.environment)
    assert process.wait_until(lambda: 20 in runs.saved_steps(tmp_path / "run"))
    assert process.popen.poll() is None and mirrored_steps(store) == [], "it waits at its end"
    store.fault = lambda method, key: None
    store.released.set()
    assert process.wait() == 0, process.output()
    assert mirrored_steps(store)[-1] == 20


def test_what_could_not_be_uploaded_is_an_exit_code_and_the_next_start_uploads_it(dataset, store, tmp_path, caplog):
    store.fault = lambda method, key: "503" if method == "PUT" and key.endswith(".ckpt") else None
    outcome = runs.train_here(dataset, tmp_path / "run", *MIRRORED)
    assert outcome.exit_code == 1 and "step-00000020.ckpt cannot be uploaded in 3 attempts" in outcome.uncopied
    assert "NO COPY of the newest checkpoint" in caplog.text and SECRET not in caplog.text
    assert runs.saved_steps(tmp_path / "run")[-1] == 20 and mirrored_steps(store) == []
    store.fault = lambda method, key: None
    assert runs.train_here(dataset, tmp_path / "run", *MIRRORED).exit_code == 0
    assert mirrored_steps(store) == runs.saved_steps(tmp_path / "run")


@pytest.fixture
def mirrored(dataset, store, tmp_path) -> Store:
    """A store with a finished run, whose own folder is gone."""
    runs.train_here(dataset, tmp_path / "first", *MIRRORED)
    return store


def test_a_damaged_checkpoint_is_passed_over_and_replaced(mirrored, dataset, tmp_path, caplog):
    steps, key = mirrored_steps(mirrored), f"{FOLDER}/step-00000020.ckpt"
    sound = mirrored.get(key)
    for damaged in (sound[:5000] + b"?" + sound[5001:], sound[:-100], sound + b"?", b""):
        mirrored.put(key, damaged)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        with caplog.at_level(logging.WARNING):
            assert runs.train_here(dataset, tmp_path / "run", *MIRRORED).exit_code == 0
        assert "the checkpoint before it is used" in caplog.text
        assert mirrored_steps(mirrored) == steps and mirrored.get(key) != damaged
    for step in steps:
        mirrored.put(f"{FOLDER}/step-{step:08d}.ckpt", b"?")
    with pytest.raises(ConfigError, match=r"holds damaged checkpoints only .*put back a copy"):
        runs.train_here(dataset, tmp_path / "other", *MIRRORED)


def test_half_an_upload_is_no_checkpoint_and_does_not_stay(mirrored, dataset, tmp_path):
    for step in (5, 25):
        mirrored.put(f"{FOLDER}/step-{step:08d}.ckpt", b"half")
    assert mirrored.ask("DELETE", f"/{FOLDER}/step-00000020.json").status == 204
    outcome = runs.train_here(dataset, tmp_path / "run", *MIRRORED, "train.max_steps=30")
    assert outcome.exit_code == 0 and mirrored_steps(mirrored)[-1] == 30
    files = {name for name in mirrored.names(FOLDER) if name.startswith("step-")}
    assert files == {f"step-{step:08d}.{end}" for step in mirrored_steps(mirrored) for end in ("ckpt", "json")}


def test_the_mirror_of_another_run_is_refused_and_nothing_is_written(mirrored, dataset, tmp_path):
    before = mirrored.names(FOLDER)
    with pytest.raises(ConfigError, match=r"mirror=s3://bucket/run holds another run .*run.seed: 1 there, 2"):
        runs.train_here(dataset, tmp_path / "run", *MIRRORED, "run.seed=2")
    assert not (tmp_path / "run").exists() and mirrored.names(FOLDER) == before


@pytest.mark.parametrize(
    ("url", "fault", "said"),
    [
        (URL, "403", r"cannot be listed \(PermissionError: Access Denied\)"),
        (URL, "503", r"cannot be listed in 3 attempts"),
        ("s3://nobucket/run", None, "there is no such bucket"),
        ("https://host/run", None, "is no address in an object store; write s3://BUCKET/FOLDER"),
        ("s3://bucket", None, "names a bucket alone"),
    ],
)
def test_a_mirror_that_cannot_be_used_is_one_sentence_before_the_training(url, fault, said, dataset, store, tmp_path):
    store.fault = lambda method, key: fault
    kind = DataUnreachable if fault == "503" else ValueError  # a later start may reach the store
    with pytest.raises(kind, match=said) as error:
        runs.train_here(dataset, tmp_path / "run", *PAIRS, f"checkpoint.mirror={url}")
    assert "\n" not in str(error.value) and SECRET not in str(error.value)
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


def test_a_network_fault_is_no_reason_to_resume_from_an_earlier_checkpoint(mirrored, dataset, tmp_path):
    def fault(method: str, key: str) -> Fault | None:
        return "503" if method in ("GET", "HEAD") and key.endswith("20.ckpt") else None

    mirrored.fault = fault
    with pytest.raises(DataUnreachable, match=r"step-00000020\.ckpt cannot be fetched in 3 attempts"):
        runs.train_here(dataset, tmp_path / "run", *MIRRORED)
    assert not list((tmp_path / "run").glob("checkpoints/step-*"))


@pytest.mark.slow
def test_ranks_of_a_node_fetch_once_and_resume_together(mirrored, dataset, tmp_path):
    before = len(mirrored.requests)
    run_dir = tmp_path / "run"
    pairs = [*MIRRORED, "train.max_steps=30"]
    said = runs.run(dataset, run_dir, *pairs, "train.devices=2", environment=mirrored.environment)
    assert "resumed at step 20" in said and mirrored_steps(mirrored)[-1] == 30
    fetched = [key for method, key in mirrored.requests[before:] if method == "GET" and key.endswith("20.ckpt")]
    assert len(fetched) == 1, "one process fetches"
    records = CheckpointFolder(run_dir / "checkpoints").records()
    assert json.loads(mirrored.get(f"{FOLDER}/{records[-1].file[:-5]}.json"))["sha256"] == records[-1].sha256


def test_ranks_that_need_nothing_of_the_mirror_do_not_wait_for_each_other(mirrored, tmp_path):
    """Each hashes the newest checkpoint: 64 ranks that did so one after the other would take minutes."""
    folder = CheckpointFolder(tmp_path / "first" / "checkpoints")
    with open(folder.folder / ".mirror.lock", "ab") as lock:
        lock_file(lock)
        fetching = threading.Thread(target=Mirror(URL, folder).fetch, daemon=True)
        fetching.start()
        fetching.join(60)
        assert not fetching.is_alive()


def test_the_wait_for_a_silent_store_can_be_limited(tmp_path):
    """Slurm kills a job soon after its signal: the upload may not hold up the end until then."""
    released = threading.Event()

    class Silent:
        def update(self, check_right):
            released.wait()

    copies = Copies(Silent())
    assert "not done within 0 s; the next start of the run does it" in copies.finish(seconds=0.1)
    released.set()
    assert copies.finish() == ""
