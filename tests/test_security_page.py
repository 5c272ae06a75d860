"""Every function, test and area of fuzzing that docs/security.md names exists."""

import re
from pathlib import Path

import pytest

from tests.fuzz.runner import AREAS, WHOLE

ROOT = Path(__file__).resolve().parents[1]
ROWS = [line for line in (ROOT / "docs" / "security.md").read_text("utf-8").splitlines() if line.startswith("| ")]
CHECKS = [row.split(" | ") for row in ROWS if row.count(" | ") == 3 and "where it enters" not in row]


def defines(path: str, name: str) -> bool:
    text = (ROOT / path).read_text("utf-8") if (ROOT / path).is_file() else ""
    return re.search(rf"^\s*(?:async )?(?:def|class) {re.escape(name)}\b", text, re.MULTILINE) is not None


def test_the_page_has_a_table() -> None:
    assert len(CHECKS) > 20


@pytest.mark.parametrize("row", CHECKS, ids=lambda row: row[0].strip("| ")[:40])
def test_everything_that_a_row_names_exists(row: list[str]) -> None:
    _, _, where, tests = row
    for path, name in re.findall(r"`([\w/]+\.\w+)(?::(\w+))?`", where):
        assert defines(path, name) if name else (ROOT / path).is_file(), f"{path}:{name}"
    for path, name in re.findall(r"`([\w/]+\.py)::(\w+)`", tests):
        assert defines(path, name), f"{path}::{name}"
    areas = re.sub(r"`[^`]*`,?", "", tests).replace("fuzz:", "").strip(" |,")
    assert {area.strip() for area in areas.split(",")} <= {*AREAS, *WHOLE, ""}
    assert areas or "`" in tests
