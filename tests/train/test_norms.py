"""Norms of the gradients, weights and updates of a step, by parameter group; logging them changes nothing."""

from pathlib import Path

import pytest
import torch

from pipeline.train.run_dir.checkpoint import load_checkpoint
from pipeline.train.run_dir.tracking import read_metrics
from tests.train import runs, wandb_files

SETTINGS = ["train.max_steps=6", "checkpoint.every_steps=1", "checkpoint.keep_last=6", "optimizer.clip_norm=3"]
GROUPS = {
    "encoder.char_embed", "encoder.convolutions", "encoder.highways", "encoder.projection", "layer1.forward",
    "layer1.backward", "layer2.forward", "layer2.backward", "softmax",
}  # fmt: skip


@pytest.fixture(scope="module")
def watched(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("watched") / "run"
    more = ["train.norms_every_steps=3", "train.lanes_at_once=4", "wandb.mode=offline"]
    runs.train_here(dataset, run_dir, *SETTINGS, *more)
    return run_dir


def of(metrics: dict[str, float], name: str) -> dict[str, float]:
    return {key.partition("/")[2]: value for key, value in metrics.items() if key.startswith(f"{name}/")}


def test_norms_are_logged_at_their_interval_for_every_group(watched: Path) -> None:
    curve = read_metrics(watched)
    assert [step for step, values in curve.items() if of(values, "norm_pre_clip")] == [3, 6]
    for name in ("norm_pre_clip", "norm_post_clip", "weight_norm", "update_ratio"):
        assert of(curve[3], name).keys() == GROUPS


@pytest.mark.parametrize("step", [3, 6])
def test_the_norms_of_all_groups_add_up_to_the_clipped_norm(watched: Path, step: int) -> None:
    values = read_metrics(watched)[step]
    before = sum(norm**2 for norm in of(values, "norm_pre_clip").values()) ** 0.5
    after = sum(norm**2 for norm in of(values, "norm_post_clip").values()) ** 0.5
    assert before == pytest.approx(values["train/gradient_norm"], rel=1e-4)
    assert after == pytest.approx(min(3.0, before), rel=1e-4) and before > 3


def test_updates_are_the_differences_between_two_checkpoints(watched: Path) -> None:
    values = read_metrics(watched)[3]
    old, new = (
        load_checkpoint(watched / "checkpoints" / f"step-{step:08d}.ckpt")["state_dict"] for step in (2, 3)
    )  # fmt: skip
    groups: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {"softmax": [], "layer2.backward": []}
    for name in old:
        if name.startswith("softmax"):
            groups["softmax"].append((old[name], new[name]))
        elif name.startswith("layers.1."):
            groups["layer2.backward"].append((old[name][1], new[name][1]))
    for group, pairs in groups.items():
        update = sum(float((b - a).double().square().sum()) for a, b in pairs) ** 0.5
        ratio, weight = values[f"update_ratio/{group}"], values[f"weight_norm/{group}"]
        assert ratio * weight == pytest.approx(update, rel=1e-3) and update > 0
    whole = sum(float(a.double().square().sum()) for a, _ in groups["layer2.backward"]) ** 0.5
    assert values["weight_norm/layer2.backward"] == pytest.approx(whole, rel=1e-4)
    table = sum(float(a.double().square().sum()) for a, _ in groups["softmax"]) ** 0.5
    assert 0 < values["weight_norm/softmax"] < table, "of the softmax only touched rows count"


def test_histograms_of_layers_are_in_wandbs_file(watched: Path) -> None:
    (piece,) = wandb_files.pieces(watched)
    items = [record["history"]["item"] for record in wandb_files.records(piece) if record["type"] == "history"]
    found = {key: value for item in items for key, value in item.items() if key.endswith(".values")}
    layers = {f"layer_norm/{layer}.{way}.values" for layer in (1, 2) for way in ("forward", "backward")}
    assert found.keys() == layers | {"layer_norm/token.values"}
    lanes, steps = 4, 10  # of the first lane group
    assert sum(found["layer_norm/2.forward.values"]) == lanes * steps


def test_no_norms_are_logged_for_a_dropped_step(dataset: Path, tmp_path: Path) -> None:
    settings = ["train.max_steps=6", "optimizer.lr=1e30", "train.norms_every_steps=1", "wandb.mode=offline"]
    runs.train_here(dataset, tmp_path / "run", *settings)
    curve = read_metrics(tmp_path / "run")
    dropped = [step for step, values in curve.items() if not of(values, "norm_pre_clip")]
    assert dropped and len(dropped) == curve[6]["train/bad_steps"]
    assert of(curve[1], "norm_pre_clip").keys() == GROUPS


def test_logging_norms_changes_nothing(watched: Path, dataset: Path, tmp_path: Path) -> None:
    runs.train_here(dataset, tmp_path / "run", *SETTINGS, "train.lanes_at_once=4")
    assert not list(runs.differences(runs.newest(watched), runs.newest(tmp_path / "run")))
