"""A model of another version, and the messages for things that are not a model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import Elmo, cli
from pipeline.apply.export import export
from pipeline.apply.load import load_trained
from pipeline.config.commands import ExportConfig
from pipeline.config.schema import ConfigError
from pipeline.model.formats.pretrained import load_pretrained
from tests.apply import finetuning
from tests.model.folders import edit
from tests.train import runs


@pytest.fixture
def exported(trained: Path, tmp_path: Path) -> Path:
    export(ExportConfig(checkpoint=str(trained), output=str(tmp_path / "exported")))
    return tmp_path / "exported"


def change_as_a_later_version(described: dict[str, Any]) -> None:
    """Rename keys, add a section, remove one, and change the type of values, as a later version might."""
    training = described["training"]
    training["train"]["precision_of_products"] = training["train"].pop("precision")
    training["optimizer"]["lr"] = {"encoder": 1, "softmax": 2}
    training["checkpoint"] = None
    training["data"]["shuffle"] = "${oc.env:HOME}"
    training["softmax"]["temperature"] = 1
    training["new part"] = {"a": [1]}


def test_settings_of_another_version_are_kept_unchanged_and_stop_no_command(
    exported: Path, domain: Path, dataset: Path, tmp_path: Path
) -> None:
    edit(exported, change_as_a_later_version)
    text = tmp_path / "text.txt"
    text.write_text("w1 w2 w3\n")
    model, out = f"checkpoint={exported}", tmp_path / "out"
    for command in (
        ["embed", model, f"input={text}", f"output={tmp_path}/x.npz"], ["score", model, f"input={text}"],
        ["neighbors", model, f"corpus={text}", "word=w1", "sentence=w1 w2"],
        ["evaluate", model, f"data={dataset}", "evaluate.lanes=4", "accelerator=cpu"],
        ["export", model, f"output={out}"],
    ):  # fmt: skip
        assert cli.main(command) == 0, command
    again = json.loads((out / "config.json").read_text())["training"]
    assert again == json.loads((exported / "config.json").read_text())["training"]
    assert again["data"]["shuffle"] == "${oc.env:HOME}" and "stage_dir" not in again["data"]
    finetuning.finetune_here(exported, domain, tmp_path / "run", "train.max_steps=1")
    assert runs.load_checkpoint(tmp_path / "run/checkpoints/step-00000001.ckpt")["global_step"] == 1


def test_a_setting_that_a_command_cannot_use_is_reported_in_one_sentence(exported: Path, domain: Path) -> None:
    edit(exported, lambda c: c["training"]["softmax"].update(kind="of tomorrow"))
    with pytest.raises(ConfigError, match=r"softmax of its training cannot be used: .*of tomorrow") as caught:
        finetuning.plan_of(exported, domain, exported.parent / "run")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", ["embed", "evaluate", "export", "score", "neighbors", "finetune"])
def test_a_text_file_is_refused_as_a_checkpoint(
    command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("not a checkpoint\n")
    others = {
        "embed": [f"input={path}", f"output={tmp_path}/x.npz"], "evaluate": [f"data={path}"],
        "export": [f"output={tmp_path}/out"], "score": [f"input={path}"], "finetune": [f"data={path}"],
        "neighbors": [f"corpus={path}", "word=not", "sentence=not a"],
    }  # fmt: skip
    key = "from" if command == "finetune" else "checkpoint"
    assert cli.main([command, f"{key}={path}", *others[command]]) == cli.EXIT_USER_ERROR
    printed = capfd.readouterr().err.splitlines()[-1]
    assert f"{path} is no checkpoint" in printed and "give RUN_DIR/checkpoints/step-NUMBER.ckpt" in printed
    assert "mmap" not in printed


@pytest.mark.parametrize("location", ["s3://bucket/model", "https://example.org/x.ckpt", "pipe:touch x #"])
def test_a_url_as_a_checkpoint_is_not_opened(location: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["export", f"checkpoint={location}", "output=x"]) == cli.EXIT_USER_ERROR
    printed = capfd.readouterr().err
    assert f"{location} looks like a URL and must be a local path" in printed
    assert printed.count("\n") == 1 and not Path("x").exists()


def test_from_pretrained_names_the_command_that_makes_a_model(trained: Path, tmp_path: Path) -> None:
    checkpoint = next((trained / "checkpoints").glob("*.ckpt"))
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/options.json").write_text("{}")
    for location, command in (
        (trained, f"`elmo export checkpoint={trained} output=DIR`"),
        (checkpoint, f"`elmo export checkpoint={checkpoint} output=DIR`"),
        (tmp_path / "theirs", f"`elmo import options={tmp_path}/theirs/options.json weights=FILE output=DIR`"),
    ):
        with pytest.raises(ConfigError) as caught:
            Elmo.from_pretrained(location)
        assert command in str(caught.value) and "again" not in str(caught.value)


def test_a_mix_without_weights_is_refused_with_the_remedy(exported: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = exported.parent / "text.txt"
    text.write_text("w1 w2\n")
    pairs = [f"checkpoint={exported}", f"input={text}", f"output={text}.npz", "layers=mix"]
    for given, printed in (
        ([], "layers=mix needs weights=, 3 numbers, one a layer; write weights=[0.2,0.3,0.5]"),
        (["weights=[1,2]"], "weights=[1.0, 2.0] must be 3 numbers, one a layer"),
        (["weights=[1,.nan,2]"], "weights=nan must be a finite number"),
        (["weights=[1,2,3]", "gamma=.inf"], "gamma=inf must be a finite number"),
    ):
        assert cli.main(["embed", *pairs, *given]) == cli.EXIT_USER_ERROR
        assert printed in capfd.readouterr().err


def test_a_checkpoint_whose_weights_are_not_finite_is_refused(trained: Path, tmp_path: Path) -> None:
    content = torch.load(next((trained / "checkpoints").glob("*.ckpt")), weights_only=True)
    content["state_dict"]["layers.0.bias"][0, 3] = float("nan")
    torch.save(content, tmp_path / "damaged.ckpt")
    with pytest.raises(ConfigError, match=r"damaged\.ckpt: layers\.0\.bias holds NaN or infinite values"):
        load_trained(str(tmp_path / "damaged.ckpt"))


def test_a_fine_tuned_model_names_what_it_was_pretrained_on(
    exported: Path, trained: Path, dataset: Path, domain: Path, tmp_path: Path
) -> None:
    """The model goes through a run and an export, twice."""
    first = load_pretrained(exported).facts
    finetuning.finetune_here(trained, domain, tmp_path / "one", "train.max_steps=2")
    export(ExportConfig(checkpoint=str(tmp_path / "one"), output=str(tmp_path / "first"), corpus="Articles"))
    finetuning.finetune_here(tmp_path / "first", dataset, tmp_path / "two", "train.max_steps=1")
    export(ExportConfig(checkpoint=str(tmp_path / "two"), output=str(tmp_path / "second"), hub=""))
    facts = load_pretrained(tmp_path / "second").facts
    assert [one["corpus"] for one in facts["pretrained_on"]] == ["dataset", "Articles"]
    assert [one["tokens"] for one in facts["pretrained_on"]] == [first["tokens"], 2 * 8 * 10]
    card = (tmp_path / "second/README.md").read_text()
    assert "| Pretrained on | dataset (4,800 tokens each way), then Articles (160 tokens each way) |" in card
    assert "| Fine-tuned on | dataset |" in card
    assert str(tmp_path) not in card + (tmp_path / "second/config.json").read_text()


def test_facts_of_another_type_stop_no_command(exported: Path, dataset: Path, tmp_path: Path) -> None:
    facts = {"step": "many", "tokens": [1], "perplexity": {"both": "low"}, "corpus": {"a": 1}, "pretrained_on": 3}
    edit(exported, lambda c: c.update(facts=facts))
    model = f"checkpoint={exported}"
    assert cli.main(["evaluate", model, f"data={dataset}", "evaluate.lanes=4", "accelerator=cpu"]) == 0
    assert cli.main(["export", model, f"output={tmp_path}/again"]) == 0
    assert "| Corpus | unknown |" in (tmp_path / "again/README.md").read_text()
