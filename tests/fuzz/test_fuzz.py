"""A short round of fuzzing in `make test`. `make fuzz` runs everything: 10,000 cases, and each byte of a dataset."""

import subprocess
import sys

import pytest

from tests import processes
from tests.fuzz.runner import AREAS


def fuzz(*options: str) -> str:
    command = [sys.executable, "-m", "tests.fuzz", *options]
    done = subprocess.run(
        command, cwd=processes.ROOT, env=processes.clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_damage_that_was_once_accepted_is_refused() -> None:
    fuzz("only=known,not yaml,places,documents,every truncation")


@pytest.mark.slow
def test_a_short_round_of_fuzzing_finds_no_failure() -> None:
    fuzz("cases=300", f"only={','.join(AREAS)}")
