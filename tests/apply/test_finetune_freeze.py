"""Frozen parts stay unchanged, for a whole run or while a new softmax warms up, on any ranks and after any kill."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.apply.evaluate import evaluate
from pipeline.apply.export import export, import_weights
from pipeline.config.commands import EvaluateCommandConfig, ExportConfig, ImportConfig
from pipeline.config.schema import EvaluateConfig
from pipeline.train.step.freeze import part_of
from tests.apply.finetuning import at_step, finetune_here, start
from tests.model.bilm_tf_fixtures import FIXTURES, needs_fixtures
from tests.train import runs

PARTS = ["encoder", "layer1", "layer2", "softmax"]
SOFTMAX_LESS = ["optimizer.schedule=constant", "finetune.warmup_steps=12", "softmax.num_samples=64",
                "checkpoint.keep_last=99", "checkpoint.every_steps=4", "train.max_steps=24"]  # fmt: skip


def changed_parts(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    """Return the parts of the model in which any bit differs between two checkpoints."""
    before, after = a["state_dict"], b["state_dict"]
    return {part_of(name) for name in before if not torch.equal(before[name], after[name])}


def parts_with_state(content: dict[str, Any]) -> set[str]:
    """Return the parts for which the optimizer holds state."""
    names = list(content["state_dict"])
    return {part_of(names[number]) for number in content["optimizer_states"][0]["state"]}


@pytest.fixture(scope="module")
def softmax_less(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the trained biLM to AllenNLP's files and import it again, so that it has no softmax."""
    folder = tmp_path_factory.mktemp("without")
    export(ExportConfig(checkpoint=str(trained), output=str(folder / "allennlp"), format="allennlp"))
    options, weights = str(folder / "allennlp/options.json"), str(folder / "allennlp/weights.hdf5")
    import_weights(ImportConfig(options=options, weights=weights, output=str(folder / "model")))
    return folder / "model"


@pytest.fixture(scope="module")
def warmed(softmax_less: Path, domain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("warmed") / "run"
    finetune_here(softmax_less, domain, run_dir, *SOFTMAX_LESS)
    return run_dir


@pytest.mark.parametrize(
    "frozen", [["encoder"], ["softmax"], ["encoder", "layer1"], ["encoder", "layer1", "layer2"], ["layer2"]], ids=str
)
@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
def test_frozen_parts_are_unchanged_bitwise_and_do_not_count_in_the_norm(
    trained: Path, domain: Path, tmp_path: Path, frozen: list[str], optimizer: str
) -> None:
    pairs = [f"finetune.freeze=[{','.join(frozen)}]", f"optimizer.name={optimizer}", "train.max_steps=3",
             "checkpoint.keep_last=9", "train.norms_every_steps=1"]  # fmt: skip
    finetune_here(trained, domain, tmp_path / "run", *pairs)
    begun, ended = at_step(tmp_path / "run", 0), at_step(tmp_path / "run", 3)
    assert changed_parts(begun, ended) == parts_with_state(ended) == set(PARTS) - set(frozen)
    for values in (runs.curve(tmp_path / "run")[step] for step in (1, 2, 3)):
        norms = {name: value for name, value in values.items() if name.startswith("norm_pre_clip/")}
        assert {name.split("/")[1].split(".")[0] for name in norms} == set(PARTS) - set(frozen)
        assert sum(value**2 for value in norms.values()) ** 0.5 == pytest.approx(
            values["train/gradient_norm"], rel=1e-5
        )


def test_a_new_softmax_learns_alone_first_and_then_all_parts_learn(warmed: Path) -> None:
    steps = {step: at_step(warmed, step) for step in (0, 4, 12, 16, 24)}
    assert changed_parts(steps[0], steps[12]) == {"softmax"} == parts_with_state(steps[12])
    assert changed_parts(steps[12], steps[16]) == set(PARTS) == parts_with_state(steps[16])
    curve = runs.curve(warmed)
    assert curve[24]["val/perplexity"] < curve[0]["val/perplexity"]


def test_a_new_softmax_starts_from_unigram_counts(softmax_less: Path, domain: Path, warmed: Path) -> None:
    result = evaluate(
        EvaluateCommandConfig(str(warmed), [str(domain)], accelerator="cpu", evaluate=EvaluateConfig(lanes=8))
    )
    assert result is not None
    assert runs.curve(warmed)[0]["val/perplexity"] == pytest.approx(result.unigram, rel=0.1)


def test_a_run_resumed_across_the_warm_up_equals_an_uninterrupted_one_bitwise(
    softmax_less: Path, domain: Path, tmp_path: Path, warmed: Path
) -> None:
    for steps in (5, 12, 13, 24):
        finetune_here(softmax_less, domain, tmp_path / "run", *SOFTMAX_LESS, f"train.max_steps={steps}")
    assert list(runs.differences(at_step(warmed, 24), at_step(tmp_path / "run", 24))) == []


def test_the_warm_up_is_by_default_a_tenth_of_the_run_as_first_planned(
    softmax_less: Path, domain: Path, tmp_path: Path
) -> None:
    pairs = ["train.epochs=9", "softmax.num_samples=64"]
    for steps in (40, 50):
        finetune_here(softmax_less, domain, tmp_path / "run", *pairs, f"train.max_steps={steps}")
        assert runs.newest(tmp_path / "run")["elmo"]["config"]["finetune"]["warmup_steps"] == 4


@pytest.mark.parametrize("kind", ["keep", "extend"])
def test_the_words_of_a_model_without_a_vocabulary_cannot_be_kept(
    softmax_less: Path, domain: Path, tmp_path: Path, kind: str
) -> None:
    with pytest.raises(ValueError, match="needs a softmax, which from="):
        finetune_here(softmax_less, domain, tmp_path / "run", f"finetune.vocabulary={kind}")


@needs_fixtures
def test_the_model_of_bilm_tf_can_be_fine_tuned(domain: Path, tmp_path: Path) -> None:
    pairs = {"options": str(FIXTURES / "options.json"), "weights": str(FIXTURES / "lm_weights.hdf5")}
    import_weights(ImportConfig(**pairs, output=str(tmp_path / "model")))
    finetune_here(tmp_path / "model", domain, tmp_path / "run", "softmax.num_samples=64", "train.max_steps=30")
    curve = runs.curve(tmp_path / "run")
    assert curve[30]["val/perplexity"] < curve[0]["val/perplexity"]


@pytest.mark.slow
def test_kills_in_and_after_the_warm_up_change_no_bit(
    softmax_less: Path, domain: Path, tmp_path: Path, warmed: Path
) -> None:
    run_dir = tmp_path / "run"
    for step in (0, 6, 15):
        process = start(softmax_less, domain, run_dir, *SOFTMAX_LESS)
        if step:
            assert process.wait_until(lambda step=step: runs.last_step(run_dir) >= step)
        else:
            assert process.wait_until((run_dir / "finetune.json").exists)  # before the first checkpoint
        process.kill_group()
    process = start(softmax_less, domain, run_dir, *SOFTMAX_LESS)
    assert process.wait() == 0, process.output()
    assert "bits a character" in process.output()
    assert list(runs.differences(at_step(warmed, 24), at_step(run_dir, 24))) == []
    assert runs.curve(run_dir) == runs.curve(warmed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [["finetune.warmup_steps=4", "finetune.freeze=[encoder]"], ["finetune.freeze=[encoder,layer1,layer2]"]],
    ids=["warm-up and a frozen part", "all but the softmax frozen"],
)
def test_two_processes_fine_tune_as_one_does(
    trained: Path, dataset: Path, domain: Path, tmp_path: Path, changes: list[str]
) -> None:
    pairs = [f"mix={dataset}:0.25", "finetune.vocabulary=extend", "train.max_steps=10", "train.patience=3", *changes]
    finetune_here(trained, domain, tmp_path / "one", *pairs)
    process = start(trained, domain, tmp_path / "two", *pairs, "train.devices=2")
    assert process.wait() == 0, process.output()
    one, two = runs.losses(tmp_path / "one"), runs.losses(tmp_path / "two")
    assert list(two) == list(one) == list(range(1, 11))
    assert [two[step] for step in one] == pytest.approx([one[step] for step in one], rel=2e-6)
    for name, value in at_step(tmp_path / "one", 10)["state_dict"].items():
        assert at_step(tmp_path / "two", 10)["state_dict"][name] == pytest.approx(value, abs=1e-5), name
    begun, ended = at_step(tmp_path / "two", 0), at_step(tmp_path / "two", 10)
    frozen = changes[-1].partition("[")[2].rstrip("]").split(",")
    assert changed_parts(begun, ended) == set(PARTS) - set(frozen)
