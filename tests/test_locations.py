"""Every command refuses a location that it cannot use, in one sentence, before anything is made."""

from pathlib import Path

import pytest

from data_prep.prepare import prepare
from pipeline import Elmo
from pipeline.cli import main


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the working folder, with a text and a dataset in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"a{n % 7} b{n % 5} c{n % 3}\n" for n in range(400)))
    prepare(["text.txt"], "data", heldout=20, workers=1, show_progress=False)
    return tmp_path


TINY = ["data.lanes=2", "data.window=4", "data.workers=0", "wandb.mode=disabled", "train.accelerator=cpu"]
LOCAL = [
    ["prep", "input=s3://bucket/text", "output=out"],
    ["prep", "input=text.txt", "output=hf://datasets/a/data"],
    ["prep", "input=text.txt", "heldout_input=http:/host/text", "output=out"],
    ["prep", "verify", "s3://bucket/data"],
    ["prep", "info", "s3://bucket/data"],
    ["pretrain", "data.path=data", "run.dir=s3://bucket/run", *TINY],
    ["pretrain", "data.path=data", "data.stage_dir=s3://bucket/stage", *TINY],
    ["pretrain", "data.path=file:{place}/data", "data.cache_dir=s3://bucket/cache", *TINY],
    ["preflight", "data.path=data", "run.dir=gs://bucket/run", *TINY],
    ["finetune", "from=s3://bucket/run", "data=data", *TINY],
    ["finetune", "from=hf://a/b", "data=data", "run.dir=s3://bucket/run", *TINY],
    ["evaluate", "checkpoint=s3://bucket/run", "data=data"],
    ["evaluate", "checkpoint=x", "data=data", "output=s3://bucket/result.json"],
    ["embed", "checkpoint=x", "input=text.txt", "output=s3://bucket/out.h5"],
    ["embed", "checkpoint=s3://bucket/run", "input=text.txt", "output=out.h5"],
    ["score", "checkpoint=x", "input=s3://bucket/text"],
    ["score", "checkpoint=x", "input=text.txt", "output=s3://bucket/out.tsv"],
    ["neighbors", "checkpoint=x", "corpus=text.txt", "word=a", "sentence=a b", "output=gs://bucket/x.json"],
    ["export", "checkpoint=x", "output=s3://bucket/model"],
    ["export", "checkpoint=s3://bucket/run", "output=model"],
    ["import", "options=s3://bucket/o.json", "weights=w", "output=model"],
    ["plot", "run", "output=s3://bucket/a.png"],
    ["demo", "s3://bucket/demo"],
]


@pytest.mark.parametrize("arguments", LOCAL, ids=" ".join)
def test_a_url_where_a_local_path_is_needed_is_refused(
    arguments: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(place=place) for argument in arguments]) == 2
    printed = capsys.readouterr().err.strip().splitlines()
    assert len(printed) == 1 and "looks like a URL and must be a local path" in printed[0]
    assert {path.name for path in place.iterdir()} <= {"text.txt", "data", "out"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["pretrain", "data.path=pipe:touch made #", "run.dir=run", *TINY],
        ["finetune", "from=x", "data=pipe:touch made #", "run.dir=run", *TINY],
        ["preflight", "data.path=pipe:touch made #", "run.dir=run", *TINY],
        ["prep", "info", "pipe:touch made #"],
        ["embed", "checkpoint=pipe:touch made #", "input=text.txt", "output=out.h5"],
        ["score", "checkpoint=x", "input=pipe:touch made #"],
    ],
    ids=" ".join,
)
def test_no_command_passes_a_location_to_a_shell(
    arguments: list[str], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err and not (place / "made").exists()


def test_a_model_is_not_loaded_from_a_url() -> None:
    with pytest.raises(ValueError, match="looks like a URL and must be a local path"):
        Elmo.from_pretrained("s3://bucket/model")


@pytest.mark.parametrize("folder", ["$NOT_SET/stage", "stage-${NOT_SET}"])
def test_a_stage_dir_with_a_variable_that_is_not_set_is_refused(
    place: Path, capsys: pytest.CaptureFixture[str], folder: str
) -> None:
    before = sorted(place.iterdir())
    assert main(["pretrain", "data.path=data", f"data.stage_dir={folder}", "run.dir=run", *TINY]) == 2
    error = capsys.readouterr().err
    assert "NOT_SET" in error and "not set on this machine" in error and "Traceback" not in error
    assert [path for path in sorted(place.iterdir()) if path.name != "run"] == before
