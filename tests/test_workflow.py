"""The workflow of GitHub Actions: two linters pass it, and it runs what this tree has, on every Python it allows."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pages import ROOT
from tests.programs import program

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def jobs() -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"])


def commands() -> list[str]:
    return [step["run"] for job in jobs().values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    "linter",
    [["zizmor", "--offline", "--pedantic"], ["check-jsonschema", "--builtin-schema", "vendor.github-workflows"]],
    ids=lambda linter: linter[0],
)
def test_a_linter_passes_the_workflows(linter: list[str], path: Path) -> None:
    done = subprocess.run([program(linter[0]), *linter[1:], str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linters_find_a_fault(tmp_path: Path) -> None:
    text = WORKFLOWS[0].read_text()
    pinned = re.sub(r"@[0-9a-f]{40} # v4\.2\.2", "@v4", text)
    for linter, faulty in (("zizmor --offline", pinned), ("check-jsonschema --builtin-schema vendor.github-workflows",
                                                          text.replace("runs-on", "runs-at"))):  # fmt: skip
        (tmp_path / "ci.yml").write_text(faulty)
        name, *options = linter.split()
        assert subprocess.run([program(name), *options, tmp_path / "ci.yml"], capture_output=True).returncode != 0


def test_the_make_targets_and_files_of_the_workflows_exist() -> None:
    made = [words.split() for words in commands() if words.startswith("make ")]
    assert {("make", "lint"), ("make", "wheel")} <= {tuple(words) for words in made}
    for words in made:
        subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True, timeout=60)
    files = re.findall(r"\btests(?:/\w+\.py)?\b", " ".join(commands()))
    assert "tests/test_docs.py" in files and all((ROOT / file).exists() for file in files)


def test_the_fast_tests_run_on_every_allowed_python() -> None:
    allowed = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT / "pyproject.toml").read_text())
    assert allowed is not None
    pythons = jobs()["fast-tests"]["strategy"]["matrix"]["python"]
    assert pythons == [f"3.{minor}" for minor in range(int(allowed[1]), 15)]
