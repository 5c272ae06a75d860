"""Every command chooses the device in the same way: a GPU by CUDA if there is one, otherwise the CPU."""

import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.cli import main
from tests.apply import finetuning
from tests.dispatch import TorchDispatchMode, tree_leaves
from tests.train import runs

NO_GPU = "accelerator=gpu, but torch finds no GPU to use by CUDA; use accelerator=cpu"
MPS = "must be auto, cpu or gpu (a GPU is used by CUDA: MPS has no float64, which perplexity and statistics need)"

NO_MPS = "accelerator=mps, but torch finds no Apple GPU to use by MPS; use accelerator=cpu"
MPS_OR_OTHER = "accelerator='tpu' must be auto, cpu, gpu or mps"


def commands(accelerator: str, dataset: Path, trained: Path, folder: Path) -> dict[str, list[str]]:
    text = dataset.parent / "heldout.txt"
    train = [*runs.arguments(dataset, folder / "run", "train.max_steps=2"), f"train.accelerator={accelerator}"]
    given = [f"checkpoint={trained}", f"accelerator={accelerator}"]
    return {
        "pretrain": train,
        "finetune": [*finetuning.SETTINGS, f"from={trained}", f"data={dataset}", f"run.dir={folder / 'tuned'}",
                     f"train.accelerator={accelerator}"],
        "preflight": train,
        "evaluate": [*given, f"data={dataset}"],
        "embed": [*given, f"input={text}", f"output={folder / 'out.npz'}"],
        "score": [*given, f"input={text}", f"output={folder / 'out.tsv'}"],
        "neighbors": [*given, f"corpus={text}", "word=w1", "sentence=w2 w1", f"index={folder / 'index'}"],
    }  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_reported_in_one_sentence(
    dataset: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for command, arguments in commands("gpu", dataset, trained, tmp_path).items():
        capfd.readouterr()
        code = main([command, *arguments])
        out, err = capfd.readouterr()
        assert NO_GPU in (out if command == "preflight" else err), f"{command}: {out}{err}"
        assert code == (1 if command == "preflight" else 2) and err.count("\n") == (command != "preflight"), err
        if command == "preflight":
            monkeypatch.setenv("SLURM_JOB_GPUS", "0")
            assert main([command, *arguments, "train.accelerator=auto"]) == 1
            assert "FAULT it has 0 GPUs" in capfd.readouterr().out
            monkeypatch.delenv("SLURM_JOB_GPUS")
    assert not (tmp_path / "run" / "run.json").exists(), "a folder was taken"


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="needs a machine without an Apple GPU")
def test_mps_and_unknown_accelerators_are_refused(
    dataset: Path, trained: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for accelerator in ("mps", "tpu"):
        for command, arguments in commands(accelerator, dataset, trained, tmp_path).items():
            applies = command in ("embed", "score", "neighbors")
            expected = MPS_OR_OTHER if applies else f"accelerator={accelerator!r} {MPS}"
            capfd.readouterr()
            assert main([command, *arguments]) == 2
            assert (NO_MPS if applies and accelerator == "mps" else expected) in capfd.readouterr().err


class NoFloat64(TorchDispatchMode):
    """Fail where an operation of torch returns float64, as it would on MPS."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        assert not any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in tree_leaves(made)), func
        return made


def test_commands_that_take_mps_compute_without_float64(dataset: Path, trained: Path, tmp_path: Path) -> None:
    with NoFloat64():
        for command, arguments in commands("cpu", dataset, trained, tmp_path).items():
            if command in ("embed", "score", "neighbors"):
                assert main([command, *arguments]) == 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_on_a_mac_auto_means_the_cpu(
    dataset: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning sees MPS as available. A command that chose it would fail here, because there is none."""
    from lightning_fabric.accelerators.mps import MPSAccelerator

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    MPSAccelerator.is_available.cache_clear()
    try:
        assert MPSAccelerator.is_available()
        for command, arguments in commands("auto", dataset, trained, tmp_path).items():
            assert main([command, *arguments]) == 0
    finally:
        MPSAccelerator.is_available.cache_clear()


def test_more_processes_than_gpus_are_refused(dataset: Path, trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        assert main(["evaluate", f"checkpoint={trained}", f"data={dataset}", "devices=99"]) == 2
        assert "devices=99" in capfd.readouterr().err
    assert main(["evaluate", f"checkpoint={trained}", f"data={dataset}", "devices=0"]) == 2
