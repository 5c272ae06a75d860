"""The benchmark of scaling: fits of laws that are known, and real runs that are killed and started again."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling.fit import fit_law
from benchmarks.synthetic import Corpus, write_corpus
from pipeline.budget.law import Check, Curve, Law, LawRun, read_law

TRUE = Curve(2.0, 2e9, 0.8, 8e8, 0.6, 0.103)
SIZES, TOKENS = (197_360, 759_184, 2_996_432), (500_000, 1_500_000, 4_500_000)
BEYOND = [(13_593_296, 9_000_000), (2_996_432, 20_000_000), (400_000, 3_000_000)]


def made_up(noise: float = 0.0, seed: int = 0, sizes: tuple[int, ...] = SIZES) -> list[LawRun]:
    """Return runs that follow TRUE, with noise relative to their loss."""
    chance = np.random.default_rng(seed)
    losses = {
        (size, tokens): TRUE.loss(size, tokens) * (1 + noise * chance.normal()) for size in sizes for tokens in TOKENS
    }
    return [LawRun(f"{size}-{tokens}", size, tokens, math.exp(loss), 0.1) for (size, tokens), loss in losses.items()]


def law_of(runs: list[LawRun]) -> Law:
    fit = fit_law(runs)
    return Law("made up", 9, 32, 20, "", "", fit.exponent, fit.curve, fit.resampled, runs, Check(runs[0], 2.0, 0.0))


@pytest.fixture(scope="module")
def laws() -> list[Law]:
    """Fit runs whose losses have a noise of 0.2 %, which is 1 % of perplexity."""
    return [law_of(made_up(0.002, seed)) for seed in range(6)]


@pytest.mark.parametrize(("size", "tokens"), BEYOND)
def test_the_fit_finds_a_made_up_law_again(size: int, tokens: int) -> None:
    law = law_of(made_up())
    assert law.exponent == "fitted"
    assert law.predict(size, tokens).perplexity == pytest.approx(TRUE.perplexity(size, tokens), rel=0.01)


@pytest.mark.parametrize(("size", "tokens"), BEYOND)
def test_the_range_of_a_noisy_law_holds_the_truth_in_nine_cases_of_ten(size: int, tokens: int, laws: list[Law]) -> None:
    """17 to 20 of the first 20 seeds hold it."""
    found, truth = [law.predict(size, tokens) for law in laws], TRUE.perplexity(size, tokens)
    assert sum(each.low <= truth <= each.high for each in found) >= len(found) - 1, (truth, found)
    assert all(each.low < each.perplexity < each.high < 1.3 * each.low for each in found), found


@pytest.mark.parametrize(("noise", "sizes"), [(0.0, SIZES[:2]), (0.02, SIZES)])
def test_an_exponent_that_the_runs_do_not_determine_is_the_published_one(noise: float, sizes: tuple[int, ...]) -> None:
    fit = fit_law(made_up(noise, sizes=sizes))
    found = fit.curve.size_exponent, fit.curve.token_exponent
    assert fit.exponent == "published" and found == pytest.approx((0.076 / 0.103, 1.0), rel=1e-5)


@pytest.mark.slow
def test_a_killed_command_does_what_is_missing_when_it_is_started_again(tmp_path: Path) -> None:
    (text, heldout), _ = write_corpus(tmp_path / "text", Corpus(sentences=600, files=2))
    settings = ["data.window=5", "softmax.num_samples=64", "data.workers=0", "train.log_every_steps=5"]
    own = [
        "--sizes=nano,micro",
        "--millions=0.0002",
        "--also=nano:0.0004,micro:0.0004",
        "--check=nano:0.0003",
        "--validate=500",
        "--lanes=4",
        "--text=synthetic",
    ]
    command = [sys.executable, "-m", "benchmarks.scaling", str(tmp_path / "out"), text, heldout, *own, *settings]
    second = tmp_path / "out" / "runs" / "micro-200"
    process = subprocess.Popen(command)
    while not second.exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    first_log = tmp_path / "out" / "runs" / "nano-200.log"
    before = first_log.read_text()
    subprocess.run(command, check=True)
    law = read_law(str(tmp_path / "out" / "law.json"))
    assert [run.name for run in law.runs] == ["nano-200", "micro-200", "nano-400", "micro-400"]
    assert [run.tokens for run in law.runs] == [200, 200, 400, 400] and law.check.run.tokens == 300
    assert (law.text, law.lanes, law.exponent) == ("synthetic", 4, "published")
    assert law.words < 60_000, "the text has fewer words than were asked for"
    assert law.check.error == pytest.approx(law.check.predicted / law.check.run.perplexity - 1, abs=1e-3)
    assert first_log.read_text() == before, "a run that had ended was started again"
    assert json.loads((tmp_path / "out" / "law.json").read_text())["runs"][0]["perplexity"] > 1
    other = subprocess.run([*command, "optimizer.lr=0.02"], capture_output=True, text=True)
    assert other.returncode == 1 and "nano-200.asked.json is of a run with other options" in other.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--millions=1", "four runs or more"),
        ("--millions=one", "millions of tokens"),
        ("--check=nano", "of tokens"),
        ("--also=nano:10,micro", "of tokens"),
        ("--check=mini:0.5", "is one of the runs"),
    ],
)
def test_too_few_runs_and_no_numbers_are_refused(option: str, message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        scaling.main(["out", "train.txt", "heldout.txt", option])
