"""A fine-tuning whose disk is gone resumes from the copies of its checkpoints."""

import shutil
from pathlib import Path

import pytest

from tests.apply import finetuning
from tests.object_store import Store
from tests.train import runs


@pytest.mark.slow
def test_a_fine_tuning_resumes_from_its_mirror_bit_for_bit(
    trained: Path, domain: Path, store: Store, tmp_path: Path
) -> None:
    pairs, run_dir = ["train.max_steps=40", "finetune.vocabulary=extend"], tmp_path / "run"
    mirror = "checkpoint.mirror=s3://bucket/domain"
    finetuning.finetune_here(trained, domain, tmp_path / "plain", *pairs)
    finetuning.finetune_here(trained, domain, run_dir, *pairs, mirror, "train.max_steps=20")
    shutil.rmtree(run_dir)
    assert finetuning.finetune_here(trained, domain, run_dir, *pairs, mirror).step == 40
    assert not list(runs.differences(runs.newest(tmp_path / "plain"), runs.newest(run_dir)))
    assert runs.losses(run_dir) == runs.losses(tmp_path / "plain")
