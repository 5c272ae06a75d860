"""docs/examples/jobset.yaml against the models that Kubeflow publishes of the JobSet, job and pod schemas."""

import shlex
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models import JobsetV1alpha2JobSet
from pydantic import ValidationError

from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from tests.pages import ROOT

MANIFEST: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "examples" / "jobset.yaml").read_text())


def job() -> dict[str, Any]:
    (machines,) = MANIFEST["spec"]["replicatedJobs"]
    return dict(machines["template"]["spec"])


def container() -> dict[str, Any]:
    (only,) = job()["template"]["spec"]["containers"]
    return dict(only)


def test_every_field_is_in_the_schema_and_has_the_right_type() -> None:
    """The models leave out fields that they do not know, so the manifest must be read back completely."""
    assert JobsetV1alpha2JobSet.from_dict(MANIFEST).to_dict() == MANIFEST  # type: ignore[union-attr]


def test_the_check_finds_a_wrong_type_and_an_unknown_field() -> None:
    wrong = yaml.safe_load(yaml.safe_dump(MANIFEST))
    wrong["spec"]["replicatedJobs"][0]["template"]["spec"]["parallelism"] = "two"
    with pytest.raises(ValidationError, match="parallelism"):
        JobsetV1alpha2JobSet.from_dict(wrong)
    unknown = yaml.safe_load(yaml.safe_dump(MANIFEST))
    unknown["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["graceSeconds"] = 3
    assert JobsetV1alpha2JobSet.from_dict(unknown).to_dict() != unknown  # type: ignore[union-attr]


def test_the_parts_of_the_manifest_fit_together() -> None:
    options = dict(word[2:].split("=", 1) for word in container()["command"] if word.startswith("--"))
    (machines,) = MANIFEST["spec"]["replicatedJobs"]
    name = MANIFEST["metadata"]["name"]
    assert options["rdzv-endpoint"].split(":")[0] == f"{name}-{machines['name']}-0-0.{name}"
    assert int(options["nnodes"]) == job()["parallelism"] == job()["completions"]
    assert options["nproc-per-node"] == container()["resources"]["limits"]["nvidia.com/gpu"]
    volumes = {volume["name"] for volume in job()["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container()["volumeMounts"]} == volumes


def test_the_command_of_the_manifest_is_a_valid_elmo_command_with_restarts() -> None:
    words = container()["command"]
    assert words[0] == "torchrun" and words[words.index("-m") + 1 :][:2] == ["pipeline.cli", "pretrain"]
    load(PretrainConfig, words[words.index("pretrain") + 1 :])
    assert {"name": "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "value": "1"} in container()["env"]
    page = (ROOT / "docs" / "guide" / "torchrun.md").read_text().replace("\\\n", " ")
    (line,) = [line for line in page.splitlines() if line.startswith("TORCH_DISABLE")]
    ours = [word.split("=")[0] for word in shlex.split(line) if word.startswith("--")]
    assert ours and set(ours) == {word.split("=")[0] for word in words if word.startswith("--")}
