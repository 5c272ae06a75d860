"""The scripts that may install system packages print it first, and NO_SYSTEM_PACKAGES=1 prevents it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = {
    "tests/install_slurm.sh": ("apt-get install slurmctld", 0),
    "tests/install_browser.sh": ("apt-get install chromium", 0),
    "install.sh": ("apt-get install python3.11-venv", 1),
}
PYTHON = """#!/bin/sh
case "$2" in
    *ensurepip*) exit 1;;
    *print*) echo 3.11;;
esac
"""
APT_GET = """#!/bin/sh
touch "$0.called"
echo "apt-get called"
exit 1
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Make a folder for PATH without Slurm, a browser and Python's venv; its apt-get only records that it ran."""
    for name in ("sh", "mktemp", "tail", "rm", "timeout", "dirname", "touch", "cat"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    programs = {"apt-get": APT_GET, "python3.11": PYTHON, "id": "#!/bin/sh\necho 0\n"}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def install(script: str, machine: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    variables = {"PATH": str(machine), "PYTHON": "python3.11", "HOME": str(machine)} | environment
    text = (ROOT / script).read_text().replace("PATH=$PATH:/usr/sbin:/sbin", "")
    copy = machine / os.path.basename(script)
    copy.write_text(text)
    command = [str(machine / "sh"), str(copy), str(machine / "venv"), "dev"]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_system_packages_prevents_apt_get_and_prints_the_remedy(script: str, machine: Path) -> None:
    remedy, code = SCRIPTS[script]
    done = install(script, machine, NO_SYSTEM_PACKAGES="1")
    assert done.returncode == code and remedy in done.stdout + done.stderr
    assert not (machine / "apt-get.called").exists()


@pytest.mark.parametrize("script", SCRIPTS)
def test_apt_get_is_announced_before_it_runs(script: str, machine: Path) -> None:
    done = install(script, machine)
    assert (machine / "apt-get.called").exists()
    printed = done.stdout.partition("apt-get called")[0]
    assert "as root" in printed and "NO_SYSTEM_PACKAGES=1 prevents that" in printed and "apt-get install -y" in printed
