"""The content of a wheel and an sdist, and the files that the package finds in a clone and in a wheel.

`make wheel` (tests/try_wheel.sh), which .ci/run runs, installs the wheel into an empty environment and uses it.
"""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.config.load import load
from pipeline.config.packaged import config_names
from pipeline.config.schema import ConfigError, PretrainConfig
from pipeline.config.tasks import StudyConfig
from tests.pages import ROOT

CONFIGS = {path.relative_to(ROOT / "configs").as_posix() for path in ROOT.glob("configs/**/*.yaml")}
SCRIPTS = {path.name for path in (ROOT / "slurm").iterdir() if path.suffix in (".sbatch", ".sh", ".py")}


def test_every_config_has_a_name() -> None:
    assert {f"{name}.yaml" for name in config_names()} == CONFIGS


def test_a_name_is_the_file_of_that_config() -> None:
    file = str(ROOT / "configs" / "small.yaml")
    assert load(PretrainConfig, ["small", "data.lanes=8"]) == load(PretrainConfig, [file, "data.lanes=8"])
    assert load(StudyConfig, ["studies/tasks", "dir=runs/study"]).dir == "runs/study"


@pytest.mark.parametrize("name", ["smal", "../small", "./small", "configs/small", "", "nothing-like-it"])
def test_an_unknown_config_name_is_refused_with_the_nearest_one_or_where_all_are_listed(name: str) -> None:
    what = "did you mean the config small\\?" if "smal" in name else "`elmo -h` lists the configs"
    with pytest.raises(ConfigError, match=rf"neither a \.yaml file nor key=value, as data.lanes=32; {what}"):
        load(PretrainConfig, [name])


def test_a_task_takes_a_config_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "ner", "tasks/small"]) == 2
    assert "takes one task" not in capsys.readouterr().err


def test_the_slurm_scripts_are_copied_and_can_be_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", f"copy={tmp_path}"]) == 0
    assert f"{len(SCRIPTS)} scripts in {tmp_path}/slurm" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "slurm").iterdir()} == SCRIPTS
    assert all(os.access(path, os.X_OK) for path in (tmp_path / "slurm").iterdir())


def test_a_changed_script_is_replaced_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", f"copy={tmp_path}"]) == 0
    mine = tmp_path / "slurm" / "submit.sh"
    mine.write_text("mine")
    assert main(["slurm", f"copy={tmp_path}"]) == 2
    assert "has other scripts named submit.sh; give another folder" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert main(["slurm", f"copy={tmp_path}", "overwrite=true"]) == 0
    assert mine.read_bytes() == (ROOT / "slurm" / "submit.sh").read_bytes()


@pytest.mark.parametrize("arguments", [[], ["copy="]])
def test_copying_the_slurm_scripts_needs_a_folder(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slurm", *arguments]) == 2
    assert "copy= is missing: give a folder" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["submit.sh", "prep.sh"])
def test_scripts_that_users_call_are_executable_in_a_fresh_clone(script: str) -> None:
    listed = subprocess.run(["git", "ls-files", "-s", f"slurm/{script}"], cwd=ROOT, capture_output=True, text=True)
    assert listed.stdout.startswith("100755 ")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and the sdist of this clone; return their folder."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_the_wheel_holds_only_the_program_its_configs_and_the_slurm_scripts(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"pipeline/configs/{name}" for name in CONFIGS} | {f"pipeline/slurm/{name}" for name in SCRIPTS} <= names
    assert {"pipeline/py.typed", "data_prep/py.typed", "pipeline/cli.py", "data_prep/prepare.py"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"pipeline", "data_prep", "elmo_pipeline"}
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.slow
def test_the_sdist_holds_what_the_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    left_out = (".ci/", ".github/", "lab/", "other/")
    assert {name for name in tracked if not name.startswith(left_out)} <= names
    assert not [name for name in names if name.startswith((*left_out, ".venv", "runs/", "data/"))]


@pytest.mark.slow
def test_an_unpacked_wheel_finds_its_configs_and_scripts(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "from pipeline.cli import main; from pipeline.config.packaged import config_names, packaged_folder; "
        "print(packaged_folder('configs'), config_names()); main(['slurm', 'copy=here'])"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert f"{tmp_path}/site/pipeline/configs {config_names()}" in done.stdout, done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "here" / "slurm").iterdir()} == SCRIPTS
