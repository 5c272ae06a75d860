"""A law with round numbers, in a file."""

import json
from dataclasses import asdict
from pathlib import Path

from pipeline.budget.law import Check, Curve, Law, LawRun

CURVE = Curve(2.0, 2e9, 0.8, 2e10, 1.0, 0.1)


def law() -> Law:
    """Return a law of two runs whose range is 2 % of the loss to both sides."""
    resampled = [Curve(2.0, 2e9, 0.8, 2e10, 1.0, 0.1, percent / 100) for percent in (-2, -1, 0, 1, 2)]
    runs = [LawRun("small", 200_000, 500_000, 400.0, 0.1), LawRun("large", 3_000_000, 4_000_000, 150.0, 0.4)]
    check = Check(LawRun("between", 800_000, 2_000_000, 200.0, 0.2), 202.0, 0.01)
    return Law("made up", 60_000, 32, 20, "2026-11-29", "abc", "fitted", CURVE, resampled, runs, check)


def write_law(path: Path) -> Path:
    path.write_text(json.dumps(asdict(law())))
    return path
