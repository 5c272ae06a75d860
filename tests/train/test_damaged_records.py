"""Damaged records of a run, or records of another run: the run resumes correctly, or is refused in one sentence."""

import importlib.util
import json
import logging
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cli import main
from pipeline.config.schema import ConfigError
from pipeline.train.run_dir.checkpoint import CheckpointFolder, load_checkpoint, resolve_checkpoint
from pipeline.train.run_dir.checkpoint_content import check_content
from pipeline.train.run_dir.lock import claim, record_run
from pipeline.train.run_dir.tracking import family
from tests import corpora, processes
from tests.apply.damage import mutations
from tests.train import runs

STEPS = ["checkpoint.every_steps=2", "train.validate_every_steps=2"]
NEWEST = "step-00000004"


@pytest.fixture(scope="module")
def four_steps(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train four steps, with checkpoints at steps two and four."""
    run_dir = tmp_path_factory.mktemp("four_steps") / "run"
    runs.train_here(dataset, run_dir, *STEPS, "train.max_steps=4")
    return run_dir


@pytest.fixture(scope="module")
def by_adam(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("adam") / "run"
    runs.train_here(dataset, run_dir, *STEPS, "train.max_steps=4", "optimizer.name=adam")
    return run_dir


@pytest.fixture
def run_dir(four_steps: Path, tmp_path: Path) -> Path:
    """Return a copy of the run of four steps."""
    shutil.copytree(four_steps, tmp_path / "run")
    return tmp_path / "run"


def files(folder: Path) -> dict[str, bytes]:
    """Return the files that a refused start must not change."""
    kept = (*folder.glob("*.json"), *folder.glob("*.yaml"), *folder.glob("checkpoints/*"))
    return {path.name: path.read_bytes() for path in kept if path.name != "writer.json"}


def check_that_resuming_is_refused(dataset: Path, run_dir: Path, match: str, *pairs: str) -> None:
    before = files(run_dir)
    with pytest.raises(ConfigError, match=match) as error:
        runs.train_here(dataset, run_dir, *STEPS, "train.max_steps=6", *pairs)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    assert files(run_dir) == before


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Replace the checkpoint at `path` by a changed one with a correct record."""
    content = torch.load(path, weights_only=True)
    change(content)
    for old in path.parent.iterdir():
        old.unlink()
    CheckpointFolder(path.parent).save(content, None, 0.0)


BROKEN_RUN = {
    "empty": b"", "cut short": b'{\n "identity": {\n  "dataset": "015', "of NULs": b"\0" * 400, "a list": b"[]",
    "nested without end": b"[" * 10_000, "of wrong types": b'{"identity": 3, "version": "0.1.0"}',
    "without an identity": b'{"version": "0.1.0"}',
}  # fmt: skip


@pytest.mark.parametrize("data", BROKEN_RUN.values(), ids=BROKEN_RUN)
def test_a_damaged_run_file_is_written_again_from_the_newest_checkpoint(
    dataset: Path, four_steps: Path, run_dir: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (run_dir / "run.json").write_bytes(data)
    check_that_resuming_is_refused(dataset, run_dir, "run.seed: 1 there, 2 now", "run.seed=2")
    with caplog.at_level(logging.WARNING):
        runs.train_here(dataset, run_dir, *STEPS, "train.max_steps=4")
    assert f"the run's identity is read from {NEWEST}.ckpt instead" in caplog.text
    assert (run_dir / "run.json").read_bytes() == (four_steps / "run.json").read_bytes()


def test_a_run_with_a_missing_run_file_resumes_bitwise(
    dataset: Path, run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    runs.train_here(dataset, tmp_path / "whole", *STEPS, "train.max_steps=6")
    (run_dir / "run.json").unlink()
    runs.train_here(dataset, run_dir, *STEPS, "train.max_steps=6")
    assert "resumed at step 4" in capfd.readouterr().err
    assert list(runs.differences(runs.newest(tmp_path / "whole"), runs.newest(run_dir))) == []


def test_a_damaged_run_file_without_a_checkpoint_is_refused(dataset: Path, run_dir: Path) -> None:
    (run_dir / "run.json").write_bytes(b"")
    for path in (run_dir / "checkpoints").iterdir():
        os.truncate(path, 10)
    check_that_resuming_is_refused(dataset, run_dir, "no whole checkpoint, only damaged ones")
    shutil.rmtree(run_dir / "checkpoints")
    check_that_resuming_is_refused(
        dataset, run_dir, "run.json is damaged .* put back a copy of it, or remove it to start the run again"
    )


def test_a_run_file_mutated_anywhere_never_ends_in_a_traceback(dataset: Path, four_steps: Path, tmp_path: Path) -> None:
    """The identity is equal, differs, or is damaged; then it is read from a checkpoint."""
    from pipeline.train.run_dir.lock import check_identity

    shutil.copytree(four_steps, tmp_path / "run")
    identity = json.loads((four_steps / "run.json").read_text())["identity"]
    for data in mutations((four_steps / "run.json").read_bytes(), seed=0, every=2):
        (tmp_path / "run" / "run.json").write_bytes(data)
        try:
            check_identity(tmp_path / "run", identity)
        except ConfigError as error:
            assert re.search("cannot be resumed with these settings|holds a run of version", str(error))


def test_a_checkpoint_of_another_run_is_refused_by_name(dataset: Path, run_dir: Path, tmp_path: Path) -> None:
    runs.train_here(dataset, tmp_path / "other", *STEPS, "train.max_steps=6", "run.seed=2")
    for suffix in (".ckpt", ".json"):
        shutil.copy(tmp_path / "other" / "checkpoints" / f"step-00000006{suffix}", run_dir / "checkpoints")
    check_that_resuming_is_refused(
        dataset, run_dir, r"step-00000006\.ckpt is a checkpoint of another run \(run.seed: 2 there, 1 now\)"
    )
    for suffix in (".ckpt", ".json"):
        (run_dir / "checkpoints" / f"step-00000006{suffix}").unlink()
    runs.train_here(dataset, run_dir, *STEPS, "train.max_steps=6")


def test_a_checkpoint_with_another_type_of_adams_step_count_is_refused(
    dataset: Path, by_adam: Path, tmp_path: Path
) -> None:
    def count_plainly(content: dict[str, Any]) -> None:
        del content["elmo"]["version"]
        for state in content["optimizer_states"][0]["state"].values():
            state["steps"] = int(state["steps"])

    shutil.copytree(by_adam, tmp_path / "run")
    rewrite(tmp_path / "run" / "checkpoints" / f"{NEWEST}.ckpt", count_plainly)
    message = r"written by an earlier elmo-pipeline, whose training state does not fit this .* keeps \{'steps': 'int'"
    check_that_resuming_is_refused(dataset, tmp_path / "run", message, "optimizer.name=adam")


def of_format_9(content: dict[str, Any]) -> None:
    content["elmo"] |= {"format": 9, "version": "7.0"}


def without_weights(content: dict[str, Any]) -> None:
    del content["state_dict"]["softmax.weight"]


def with_unknown_state(content: dict[str, Any]) -> None:
    next(iter(content["optimizer_states"][0]["state"].values()))["moment"] = torch.zeros(3)


def of_fewer_lanes(content: dict[str, Any]) -> None:
    for state in content["elmo"]["states"]:
        state["h"] = state["h"][:, :4].clone()


def with_other_groups(content: dict[str, Any]) -> None:
    content["optimizer_states"][0]["param_groups"].append({"params": [0]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_format_9, r"has checkpoint format 9, written by elmo-pipeline 7.0, and this .* reads format 1"),
        (without_weights, "Missing key.*softmax.weight"),
        (with_unknown_state, "its optimizer keeps .*moment"),
        (of_fewer_lanes, r"states of shapes \[\[\(2, 4, 16\)"),
        (with_other_groups, "different number of parameter groups"),
    ],
)  # fmt: skip
def test_a_checkpoint_that_this_version_cannot_resume_from_is_refused_in_one_sentence(
    dataset: Path, run_dir: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    rewrite(run_dir / "checkpoints" / f"{NEWEST}.ckpt", change)
    check_that_resuming_is_refused(dataset, run_dir, message)


def test_a_checkpoint_file_is_checked_against_its_record(run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, chance = run_dir / "checkpoints" / f"{NEWEST}.ckpt", random.Random(0)
    assert resolve_checkpoint(str(path)) == path and not caplog.records
    whole = path.read_bytes()
    for _ in range(30):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(
            ConfigError, match=r"is damaged \(its sha256 is not the one recorded in step-00000004\.json"
        ):
            resolve_checkpoint(str(path))
    path.write_bytes(whole)
    path.with_suffix(".json").write_text("{}")
    with pytest.raises(ConfigError, match=r"step-00000004.json is damaged"):
        resolve_checkpoint(str(path))
    path.with_suffix(".json").unlink()
    assert resolve_checkpoint(str(path)) == path
    assert "has no record (step-00000004.json) beside it: its bytes were not checked" in caplog.text


COMMANDS = [
    "export output={out}", "evaluate data={data}", "embed input={text} output={out}.h5", "score input={text}",
    "neighbors corpus={text} word=w1 sentence=w1", "finetune data={data} run.dir={out}",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_uses_a_damaged_checkpoint_file(
    dataset: Path, run_dir: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, text = run_dir / "checkpoints" / f"{NEWEST}.ckpt", corpora.write_text(tmp_path / "text.txt", ["w1 w2"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    name, *pairs = command.format(out=tmp_path / "out", data=dataset, text=text).split()
    assert main([name, f"{'from' if name == 'finetune' else 'checkpoint'}={path}", *pairs]) == 2
    assert f"{NEWEST}.ckpt is damaged (its sha256" in capsys.readouterr().err


def test_a_change_in_any_byte_of_a_record_is_found(four_steps: Path, tmp_path: Path) -> None:
    """A changed digit of a perplexity is found too, because the best checkpoint is chosen by it."""
    shutil.copytree(four_steps / "checkpoints", tmp_path, dirs_exist_ok=True)
    path, whole = tmp_path / f"{NEWEST}.json", (four_steps / "checkpoints" / f"{NEWEST}.json").read_bytes()
    record, name = CheckpointFolder(tmp_path).records()[-1], whole.index(b"record_sha256")
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        found = CheckpointFolder(tmp_path).records()
        # The record then looks like an older one, without this hash.
        in_name = name <= place < name + len("record_sha256")
        assert len(found) == 1 or found[-1] == record or in_name, flipped


@pytest.mark.parametrize("file", ["/dev/zero", "/dev/null", "/proc/self/mem", "."])
def test_a_file_that_is_no_checkpoint_is_refused(file: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a readable checkpoint|is no checkpoint, or it is cut short"):
        load_checkpoint(Path(file))
    (tmp_path / "notes.ckpt").write_text("not a checkpoint")
    with pytest.raises(ConfigError, match="is no checkpoint, or it is cut short; give RUN_DIR"):
        load_checkpoint(tmp_path / "notes.ckpt")


FOREIGN: tuple[Any, ...] = (
    None, True, -1, 2**70, 1.5, "x", b"x", [], {}, [{}], {"a": 1},
    torch.zeros(3, dtype=torch.int64), torch.zeros((2, 2)).bool(),
    torch.zeros(1).expand(10**9), [[[[[]]]]],
)  # fmt: skip


def test_content_of_other_types_is_refused_in_one_sentence(four_steps: Path) -> None:
    """Values that no command reads may be anything that JSON can hold."""
    path = four_steps / "checkpoints" / f"{NEWEST}.ckpt"
    content, refused = torch.load(path, weights_only=True), 0
    free = {"state_dict", "param_groups", "state", "dataset", "config", "states", "h", "validations", "version",
            "bad_steps", "tokens"}  # fmt: skip
    places = [(), ("global_step",), ("state_dict",), ("optimizer_states",), ("optimizer_states", 0), ("elmo",)]
    places += [("state_dict", name) for name in list(content["state_dict"])[:3]]
    places += [("optimizer_states", 0, name) for name in ("state", "param_groups")]
    places += [("elmo", name) for name in content["elmo"]] + [("elmo", "vocabulary", n) for n in ("words", "counts")]
    places += [("elmo", "states", 0), ("elmo", "states", 0, "h"), ("elmo", "identity", "dataset")]
    for place in places:
        for value in FOREIGN:
            try:
                check_content(path, changed(content, place, value))
            except ConfigError as error:
                assert "\n" not in str(error) and len(str(error)) < 500
                refused += 1
            else:
                assert place[-1] in free, (place, value)
    assert refused > 0.9 * len(places) * len(FOREIGN)
    check_content(path, content)


def test_a_checkpoint_without_a_weight_of_its_model_is_not_exported(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(run_dir / "checkpoints" / f"{NEWEST}.ckpt", without_weights)
    assert main(["export", f"checkpoint={run_dir}", f"output={tmp_path / 'out'}"]) == 2
    assert f"{NEWEST}.ckpt" in capsys.readouterr().err


def changed(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copied = value.copy()
    copied[place[0]] = changed(value[place[0]], place[1:], new)
    return copied


def test_a_damaged_wandb_run_id_is_read_from_wandbs_own_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = family(tmp_path, "run")
    (tmp_path / "wandb" / f"offline-run-20260101_101010-{first.removeprefix('run-')}").mkdir(parents=True)
    for data in (b"", b"{}", b"[" * 10_000, b'{"id": "../x"}', b'{"id": 7}', b"\xff"):
        (tmp_path / "wandb-run.json").write_bytes(data)
        assert family(tmp_path, "run") == first == family(tmp_path, "run")
    assert len(caplog.records) == 6


def test_a_damaged_writer_file_neither_stops_the_training_nor_lets_another_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with claim(tmp_path) as writer:
        text = (tmp_path / "writer.json").read_bytes()
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
        for data in (
            b"",
            b"[1]",
            b"7",
            b"null",
            b"[" * 10_000,
            b'{"token": 3}',
            text[:20],
            text.replace(b": 0", b': "0"'),
        ):
            (tmp_path / "writer.json").write_bytes(data)
            assert writer.is_current()
            with pytest.raises(ConfigError, match="is being trained by another process"):
                claim(tmp_path)


def test_an_older_run_file_is_kept_unchanged(dataset: Path, run_dir: Path) -> None:
    run = json.loads((run_dir / "run.json").read_text()) | {"version": "0.0.1"}
    (run_dir / "run.json").write_text(json.dumps(run))
    record_run(run_dir, run["identity"], runs.config_of(dataset, run_dir))
    assert json.loads((run_dir / "run.json").read_text())["version"] == "0.0.1"


RESTARTS = '{"unix_time": 1.5, "job": "7", "restart": 1, "reason": "crash, code 1", "step": 4, "crash": "training"}\n'
END = '{"unix_time": 1.5, "how": "diverged", "why": "", "text": "", "slurm": {"job_id": "7", "restart_count": "2"}}'
NODE_CHECK = '{"faults": ["its clock is 200 s behind"], "signal": null}'


def test_a_job_ignores_damaged_files(
    four_steps: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Use a script as scontrol that prints what Slurm's would for a job that was cancelled."""
    (tmp_path / "scontrol").write_text(
        "#!/bin/sh\n[ $2 = hostnames ] && echo n1 || echo JobState=CANCELLED Restarts=2\n"
    )
    (tmp_path / "scontrol").chmod(0o755)
    for name, value in {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2",
                        "SLURM_JOB_NODELIST": "n1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("requeue", processes.ROOT / "slurm" / "requeue.py")
    assert spec is not None and spec.loader is not None
    requeue = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(requeue)
    run_dir = tmp_path / "run"
    node_check = run_dir / "preflight" / "7.2" / "n1.json"
    (run_dir / "checkpoints").mkdir(parents=True)
    (run_dir / "checkpoints" / "step-abc.json").touch()
    for data in mutations(RESTARTS.encode(), seed=0, every=2):
        (run_dir / "restarts.jsonl").write_bytes(data)
        assert requeue.begin(run_dir) == 0
        assert requeue.restarts(run_dir)[-1]["reason"] == "node failure or preemption" or b'"restart": 2' in data
    for data in mutations(END.encode(), seed=0, every=4):
        (run_dir / "end.json").write_bytes(data)
        assert requeue.end(run_dir, 1) == 1
    node_check.parent.mkdir(parents=True)
    for data in mutations(NODE_CHECK.encode(), seed=0, every=4):
        node_check.write_bytes(data)
        assert requeue.exclude_bad_nodes(run_dir, 0) in (0, 1)
    node_check.write_bytes(b"{}")
    assert requeue.read_node_check(node_check) is None
