"""Damage to a folder of checkpoints, and which checkpoint a run or a reader then uses."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import ConfigError
from pipeline.train.run_dir.checkpoint import CheckpointFolder, load_checkpoint, resolve_checkpoint
from pipeline.train.run_dir.checkpoint_content import FORMAT
from tests.train import runs


def content(step: int) -> dict[str, Any]:
    elmo = {
        "format": FORMAT, "identity": {"dataset": "0" * 64}, "config": {}, "states": [], "tokens": 80 * step,
        "vocabulary": {"words": torch.tensor(list(b"a\nb"), dtype=torch.uint8), "counts": torch.tensor([2, 1])},
        "bad_steps": 0, "bad_steps_in_a_row": 0,
    }  # fmt: skip
    return {
        "global_step": step, "state_dict": {"weight": torch.full((1000,), float(step))},
        "optimizer_states": [{"state": {}, "param_groups": [{"params": [0]}]}], "elmo": elmo,
    }  # fmt: skip


def folder_of(path: Path, perplexities: list[float | None], keep_last: int = 2) -> CheckpointFolder:
    """Save checkpoints of steps 10, 20, ... with these held-out perplexities."""
    folder = CheckpointFolder(path, keep_last)
    for number, perplexity in enumerate(perplexities):
        folder.save(content(10 * (number + 1)), perplexity, unix_time=0.0)
    return folder


def steps(folder: CheckpointFolder) -> list[int]:
    return [record.step for record in folder.records()]


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def tear(path: Path) -> None:
    """Replace the second half by zeros, as if it had never been written."""
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


def overwrite(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


CHECKPOINT_DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit flipped": flip_a_bit,
    "truncated": lambda path: os.truncate(path, path.stat().st_size - 100),
    "torn": tear,
    "empty": lambda path: os.truncate(path, 0),
    "missing": lambda path: path.unlink(),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0") and None,
}  # fmt: skip
RECORD_DAMAGE: dict[str, Callable[[Path], None]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: os.truncate(path, 0),
    "not JSON": overwrite(b"\x80\x81 garbage"),
    "of something else": overwrite(b"[1, 2]"),
    "a number": overwrite(b"7"),
    "cut short": lambda path: os.truncate(path, path.stat().st_size // 2),
    "of wrong types": overwrite(
        b'{"step": "20", "file": 3, "bytes": 1, "sha256": "", "val_perplexity": 1, "unix_time": 0}'
    ),
    "of another step's file": lambda path: path.write_bytes(path.with_name("step-00000010.json").read_bytes()) and None,
}
DAMAGE = [(f"checkpoint {name}", ".ckpt", harm) for name, harm in CHECKPOINT_DAMAGE.items()]
DAMAGE += [(f"record {name}", ".json", harm) for name, harm in RECORD_DAMAGE.items()]


@pytest.mark.parametrize(("ending", "harm"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_a_damaged_newest_checkpoint_is_logged_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str, harm: Callable[[Path], None]
) -> None:
    folder = folder_of(tmp_path, [None, None])
    harm(tmp_path / f"step-00000020{ending}")
    with caplog.at_level(logging.WARNING):
        record = folder.to_resume_from()
    assert record is not None and record.step == 10
    assert "step-00000020" in caplog.text
    assert torch.equal(load_checkpoint(folder.path(record))["state_dict"]["weight"], torch.full((1000,), 10.0))


@pytest.mark.parametrize(("ending", "harm"), [case[1:] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_the_next_save_sets_the_damaged_checkpoint_aside(
    tmp_path: Path, ending: str, harm: Callable[[Path], None]
) -> None:
    folder = folder_of(tmp_path, [None, None])
    harm(tmp_path / f"step-00000020{ending}")
    was = {path.suffix: path.read_bytes() for path in tmp_path.glob("step-00000020.*")}
    folder.save(content(15), None, unix_time=0.0)  # the run resumed at step 10
    assert steps(folder) == [10, 15]
    prefix = "" if ".json" not in was else "damaged-"  # a file without a record may be left over from a kill
    assert {path.suffix: path.read_bytes() for path in tmp_path.glob(f"{prefix}step-00000020.*")} == was
    assert len(list(tmp_path.iterdir())) == 4 + len(was)
    folder.save(content(20), None, unix_time=0.0)
    folder.save(content(25), None, unix_time=0.0)
    assert steps(folder) == [20, 25] and folder.glance() == (folder.records(), [])
    assert len(list(tmp_path.iterdir())) == 4 + (len(was) if prefix else 0)


def test_only_the_newest_checkpoints_set_aside_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = folder_of(tmp_path, [None, None])
    for step in (15, 12, 11):  # each time the run resumes at step 10
        newest = folder.records()[-1]
        flip_a_bit(folder.path(newest))
        assert folder.newest_good() == folder.records()[0]
        folder.save(content(step), None, unix_time=0.0)
        assert [path.name for path in sorted(tmp_path.glob("damaged-*.ckpt"))] == [f"damaged-{newest.file}"]
    assert steps(folder) == [10, 11] and "set aside as damaged" in caplog.text
    (tmp_path / "damaged-step-00000012.ckpt").rename(tmp_path / "step-00000012.ckpt")  # put back by hand
    (tmp_path / "damaged-step-00000012.json").rename(tmp_path / "step-00000012.json")
    flip_a_bit(tmp_path / "step-00000012.ckpt")
    assert folder.newest_good() == folder.records()[-1] and folder.records()[-1].step == 12


def test_a_truncated_checkpoint_does_not_count_as_one_to_keep(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [None, None])
    os.truncate(tmp_path / "step-00000020.ckpt", 100)
    folder.save(content(30), None, unix_time=0.0)
    assert [record.step for record in folder.glance()[0]] == [10, 30]
    assert (tmp_path / "damaged-step-00000020.ckpt").exists()


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [None, None])
    for name in ("step-notes.txt", "step-1.ckpt", "best.ckpt", ".hidden.tmp", "step-00000010.ckpt.orig"):
        (tmp_path / name).write_text("mine")
    folder.save(content(30), None, unix_time=0.0)
    assert {path.name for path in tmp_path.iterdir() if path.read_bytes() == b"mine"} == {
        "step-notes.txt", "step-1.ckpt", "best.ckpt", ".hidden.tmp", "step-00000010.ckpt.orig",
    }  # fmt: skip


def test_when_all_checkpoints_are_damaged_the_run_refuses_to_start_over(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [None, None])
    flip_a_bit(tmp_path / "step-00000010.ckpt")
    os.truncate(tmp_path / "step-00000020.json", 3)
    with pytest.raises(ConfigError, match=r"only damaged ones \(step-00000010, step-00000020\).*remove that folder"):
        folder.to_resume_from()
    assert len(list(tmp_path.iterdir())) == 4


def test_when_all_records_are_lost_the_run_refuses_to_start_over(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, [None, None])
    for record in tmp_path.glob("*.json"):
        record.unlink()
    with pytest.raises(ConfigError, match="no whole checkpoint"):
        folder.to_resume_from()


def test_a_run_killed_while_writing_its_first_checkpoint_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path, [None])
    (tmp_path / "step-00000010.json").unlink()  # killed between writing the checkpoint and its record
    (tmp_path / ".step-00000010.ckpt.abc.tmp").write_bytes(b"half")
    assert folder.to_resume_from() is None
    assert "step-00000010.ckpt has no record" in caplog.text
    folder.save(content(4), None, unix_time=0.0)
    assert steps(folder) == [4] and not list(tmp_path.glob(".*.tmp"))
    folder.save(content(12), None, unix_time=0.0)
    assert sorted(path.name for path in tmp_path.glob("*.ckpt")) == ["step-00000004.ckpt", "step-00000012.ckpt"]


def test_without_a_folder_the_run_is_new(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path / "none").to_resume_from() is None


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    perplexities = [90.0, 50.0, 70.0, None, 60.0, float("nan")]
    assert steps(folder_of(tmp_path / "two", perplexities)) == [20, 50, 60]
    assert steps(folder_of(tmp_path / "three", perplexities, keep_last=3)) == [20, 40, 50, 60]
    assert steps(folder_of(tmp_path / "unrated", [None] * 5)) == [40, 50]
    assert steps(folder_of(tmp_path / "falling", [5.0, 4.0, 3.0, 2.0])) == [30, 40]
    assert steps(folder_of(tmp_path / "tie", [3.0, 9.0, 3.0, 9.0, 9.0])) == [30, 40, 50]


def test_a_run_folder_means_its_best_complete_checkpoint(tmp_path: Path) -> None:
    folder_of(tmp_path / "checkpoints", [90.0, 50.0, 70.0, 60.0])
    assert resolve_checkpoint(str(tmp_path)).name == "step-00000020.ckpt"
    flip_a_bit(tmp_path / "checkpoints" / "step-00000020.ckpt")
    assert resolve_checkpoint(str(tmp_path)).name == "step-00000040.ckpt"
    folder_of(tmp_path / "unrated" / "checkpoints", [None, None])
    assert resolve_checkpoint(str(tmp_path / "unrated")).name == "step-00000020.ckpt"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no whole checkpoint"):
        resolve_checkpoint(str(tmp_path / "empty"))


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_a_truncated_file_given_by_name_is_a_config_error(tmp_path: Path, size: int) -> None:
    folder_of(tmp_path, [None])
    os.truncate(tmp_path / "step-00000010.ckpt", size)
    with pytest.raises(ConfigError, match="is no checkpoint, or it is cut short"):
        load_checkpoint(tmp_path / "step-00000010.ckpt")


def test_a_checkpoint_of_a_run_loads_with_weights_only_and_holds_plain_values(uninterrupted: Path) -> None:
    path = sorted((uninterrupted / "checkpoints").glob("*.ckpt"))[-1]
    loaded = torch.load(path, weights_only=True)
    assert {"global_step", "state_dict", "optimizer_states", "elmo"} <= loaded.keys()
    assert loaded["elmo"]["config"]["data"]["lanes"] == 8
    states = loaded["elmo"]["states"]
    assert [tuple(s["h"].shape) for s in states] == [(2, 8, 16)] * 2 and len(states[0]["c"][0]) == 8
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["step"] == loaded["global_step"] == 120 and record["bytes"] == path.stat().st_size


def test_the_best_checkpoint_of_a_run_is_kept(uninterrupted: Path) -> None:
    rated = {s: v["val/perplexity"] for s, v in runs.curve(uninterrupted).items() if "val/perplexity" in v}
    best = min(rated, key=lambda step: (rated[step], -step))
    assert list(rated) == list(range(10, 121, 10))
    assert runs.saved_steps(uninterrupted) == sorted({best, 115, 120})


def test_a_run_resumes_bitwise_from_the_checkpoint_before_a_damaged_one(
    dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = ["checkpoint.every_steps=4"]
    runs.train_here(dataset, tmp_path / "whole", *settings, "train.max_steps=14")
    runs.train_here(dataset, tmp_path / "run", *settings, "train.max_steps=9")
    flip_a_bit(tmp_path / "run" / "checkpoints" / "step-00000009.ckpt")
    runs.train_here(dataset, tmp_path / "run", *settings, "train.max_steps=14")
    assert "resumed at step 8" in capfd.readouterr().err
    assert "step-00000009.ckpt is damaged (its sha256 is not the one recorded)" in caplog.text
    assert list(runs.differences(runs.newest(tmp_path / "whole"), runs.newest(tmp_path / "run"))) == []
