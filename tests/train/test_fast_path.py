"""The fast path is used where it has agreed with the plain path: here interpreted kernels against plain torch."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.model.backend import device as gpu
from pipeline.model.backend import triton_kernels
from pipeline.train.fast_path import trust
from pipeline.train.fast_path.callback import FastPath
from pipeline.train.fast_path.trust import Machine, checked_mode, code_version, fast_path
from tests.processes import Process

MACHINE = Machine("H200 (9.0)", "NVRM version: 570.1", "2.9.1+cu128", "0.1.0+abc")
SIZES = ["model.filters=[[1,4],[2,4]]", "model.num_highway=1", "model.num_layers=1", "model.lstm_dim=5",
         "model.projection_dim=4", "data.lanes=2", "data.window=1", "data.vocab_size=40",
         "softmax.num_samples=8"]  # fmt: skip


def checked(folder: Path | None, machine: Machine = MACHINE, writes: bool = True) -> tuple[str, str]:
    with gpu.using("kernels"):
        return checked_mode(torch.device("cpu"), machine, folder, writes, SIZES)


@pytest.fixture
def wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function after whose call the kernel of the cell computes a wrong value, as on a faulty machine."""
    right = triton_kernels.cell_forward

    def wrong(gates: Tensor, bias: Tensor, c_prev: Tensor, c: Tensor, m: Tensor, clip: float) -> None:
        right(gates, bias, c_prev, c, m, clip)
        m[0, 0, 0] += 0.1

    return lambda: monkeypatch.setattr(triton_kernels, "cell_forward", wrong)


def test_kernels_that_agree_are_used_and_the_check_is_remembered_for_this_machine_only(
    tmp_path: Path, wrong_kernel: Callable[[], None]
) -> None:
    mode, line = checked(tmp_path / "new" / "folder")
    assert mode == "kernels", line
    assert line.startswith("gpu      H200 (9.0): the fast path (kernels) agrees with plain torch (checked in ")
    wrong_kernel()  # would be found by another comparison
    mode, line = checked(tmp_path / "new" / "folder")
    assert (mode, line.partition("(checked")[2]) == ("kernels", " before)")
    for field in dataclasses.fields(MACHINE):
        other = dataclasses.replace(MACHINE, **{field.name: "other"})
        assert checked(tmp_path / "new" / "folder", other)[0] == "plain", field.name
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 1 + len(dataclasses.fields(MACHINE))


def test_kernels_that_disagree_are_not_used_and_the_line_says_what_differs_and_what_to_remove(
    tmp_path: Path, wrong_kernel: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong_kernel()
    mode, line = checked(tmp_path)
    (file,) = tmp_path.iterdir()
    assert mode == "plain" and "\n" not in line
    assert "the fast path (kernels) is wrong here: in float32 the result " in line and "(checked in " in line
    assert line.endswith(f"; plain torch is used, which is slower; remove {file} to check again")
    monkeypatch.undo()
    mode, line = checked(tmp_path)  # remembered too
    assert mode == "plain" and "(checked before)" in line
    file.unlink()
    assert checked(tmp_path)[0] == "kernels"


def test_kernels_that_fail_are_not_used_and_nothing_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr(triton_kernels, "cell_forward", fail)
    mode, line = checked(tmp_path)
    assert mode == "plain" and list(tmp_path.iterdir()) == []
    assert "fails here (RuntimeError: Failed to find C compiler. Please specify via CC): plain torch is used" in line


def test_a_damaged_file_is_replaced_by_another_check(tmp_path: Path, wrong_kernel: Callable[[], None]) -> None:
    wrong_kernel()
    checked(tmp_path)
    (file,) = tmp_path.iterdir()
    for content in (b"\xff\x00", b'{"machine": {}, "mode": "kernels", "difference": ""}'):
        file.write_bytes(content)
        mode, line = checked(tmp_path)
        assert mode == "plain" and "(checked in " in line
        assert json.loads(file.read_text())["machine"] == dataclasses.asdict(MACHINE)


def test_a_folder_that_cannot_be_read_or_written_costs_only_another_check(
    tmp_path: Path, wrong_kernel: Callable[[], None]
) -> None:
    wrong_kernel()
    (tmp_path / "file").touch()
    unknown_driver = tmp_path / "unused", dataclasses.replace(MACHINE, driver="")
    for folder, machine in ((tmp_path / "file", MACHINE), (None, MACHINE), unknown_driver):
        mode, line = checked(folder, machine)
        assert mode == "plain" and ", not remembered); plain torch" in line and "remove" not in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_only_one_process_of_a_node_writes_the_file(tmp_path: Path, wrong_kernel: Callable[[], None]) -> None:
    wrong_kernel()
    assert checked(tmp_path, writes=False)[0] == "plain"
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_uses_the_plain_path_checks_nothing(tmp_path: Path) -> None:
    with gpu.using("plain"):
        assert checked_mode(torch.device("cpu"), MACHINE, tmp_path) == ("plain", "")
    assert checked_mode(torch.device("cpu"), MACHINE, tmp_path) == ("plain", "")
    with FastPath("cpu", 0, 1) as path:
        path.on_fit_start(None, None)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_check_leaves_the_random_numbers_of_the_run_alone(tmp_path: Path, wrong_kernel: Callable[[], None]) -> None:
    wrong_kernel()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    checked(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_changed_code_has_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_PACKAGE", tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.py").write_text("1")
    before = code_version()
    (tmp_path / "model" / "a.py").write_text("2")
    assert code_version() != before


_RANK = """
import sys
import torch
import torch.distributed as dist
from pipeline.train.fast_path.callback import slowest_mode

dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
print(*(slowest_mode(modes[dist.get_rank()], torch.device("cpu")) for modes in
        (("graphs", "graphs"), ("graphs", "plain"), ("plain", "graphs"), ("kernels", "graphs"))))
dist.destroy_process_group()
"""


def test_all_ranks_use_the_slowest_mode_of_any(tmp_path: Path) -> None:
    ranks = [
        Process("-c", _RANK, str(tmp_path / "store"), str(rank), log=tmp_path / f"{rank}.log", forked=True)
        for rank in range(2)
    ]
    for rank in ranks:
        assert rank.wait() == 0, rank.output()
        assert rank.output().splitlines()[-1] == "graphs plain plain kernels"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_fast_path_agrees_and_the_second_start_remembers_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELMO_CACHE", str(tmp_path))
    for when in ("(checked in ", "(checked before)"):
        with fast_path("cuda"):
            assert gpu.mode_of(torch.device("cuda")) == "graphs"
        assert f"the fast path (graphs) agrees with plain torch {when}" in capsys.readouterr().err
