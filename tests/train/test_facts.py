"""The revision that a run records is that of this project's clone, never of another repository."""

import shutil
import subprocess
import sys
from pathlib import Path

from pipeline.train.run_dir.records import git_revision

ROOT = Path(__file__).resolve().parents[2]


def revision_in(folder: Path) -> str:
    """Return what git_revision returns when the package is in `folder`."""
    code = "from pipeline.train.run_dir.records import git_revision; print(git_revision())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return done.stdout.strip()


def git(*arguments: str, folder: Path) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def copy_package(folder: Path) -> None:
    for package in ("pipeline", "data_prep"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))


def test_a_clone_has_its_revision() -> None:
    if (ROOT / ".git").exists():
        assert git_revision() is not None


def test_a_repository_around_the_package_is_not_recorded(tmp_path: Path) -> None:
    """Install the package in a virtual environment inside a clone of something else."""
    git("init", folder=tmp_path)
    git("commit", "--allow-empty", "-m", "other", folder=tmp_path)
    installed = tmp_path / ".venv" / "site-packages"
    copy_package(installed)
    assert revision_in(installed) == "None"
    copy_package(tmp_path)  # at the top of another repository
    assert revision_in(tmp_path) == "None"
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert len(revision_in(tmp_path)) >= 40


def test_pinned_code_has_the_revision_of_its_submission(tmp_path: Path) -> None:
    copy_package(tmp_path)
    (tmp_path / "REVISION").write_text("abc\n")
    assert revision_in(tmp_path) == "abc"
