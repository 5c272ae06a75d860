"""The law of elmo plan: its values, its range, what repeated text counts for, and damaged files."""

import json
import math
from pathlib import Path

import pytest

from pipeline.budget.law import Curve, effective_tokens, millions, read_law
from pipeline.config.schema import ConfigError
from tests.budget.laws import law, write_law


def test_the_loss_is_that_of_kaplan_and_an_irreducible_part() -> None:
    general = 1.5 + (2e9 / 10_000**0.8 + 3e6 / 100_000**0.5) ** 0.2
    assert Curve(1.5, 2e9, 0.8, 3e6, 0.5, 0.2).loss(10_000, 100_000) == pytest.approx(general)
    expected = 2.0 + (2e9 / 10_000**0.8 + 2e10 / 100_000) ** 0.1
    prediction = law().predict(10_000, 100_000)
    assert prediction.perplexity == pytest.approx(math.exp(expected))
    assert prediction.low == pytest.approx(math.exp(0.98 * expected))
    assert prediction.high == pytest.approx(math.exp(1.02 * expected))


def test_a_law_covers_what_lies_between_its_runs() -> None:
    assert law().covers(200_000, 4_000_000) and law().covers(1_000_000, 1_000_000)
    assert not law().covers(199_999, 1_000_000) and not law().covers(1_000_000, 4_000_001)
    assert law().extent == "0.2 M to 3.0 M LSTM parameters and 0.5 M to 4.0 M tokens"


def test_repeated_tokens_count_for_less_and_less() -> None:
    assert effective_tokens(50.0, 100) == 50.0
    assert effective_tokens(100.0, 100) == 100.0
    gains = [effective_tokens(100.0 * (n + 1), 100) - effective_tokens(100.0 * n, 100) for n in range(1, 40)]
    assert 96 < gains[0] < 97.5 and gains == sorted(gains, reverse=True) and gains[-1] > 0
    assert effective_tokens(1e9, 100) == pytest.approx(100 * (1 + 15.39))


@pytest.mark.parametrize(
    ("number", "text"), [(197_360, "0.2 M"), (12_345, "0.012 M"), (93_600_848, "93.6 M"), (8e8, "800 M")]
)
def test_numbers_are_shown_in_millions(number: float, text: str) -> None:
    assert millions(number) == text


def test_a_law_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_law(str(write_law(tmp_path / "law.json"))) == law()


@pytest.mark.parametrize(
    ("key", "value"),
    [("fit", None), ("runs", []), ("resampled", []), ("words", -1), ("exponent", "odd"), ("lanes", "32"), ("text", 3)],
)
def test_a_damaged_law_is_refused_in_one_sentence(key: str, value: object, tmp_path: Path) -> None:
    path = write_law(tmp_path / "law.json")
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {key: value}))
    with pytest.raises(ConfigError, match=r"law\.json is damaged .*give the law\.json that python -m benchmarks"):
        read_law(str(path))
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"law\.json is damaged"):
        read_law(str(path))


def test_the_law_of_the_package_predicts_the_run_that_it_was_not_fitted_to() -> None:
    shipped = read_law()
    checked = shipped.check.run
    predicted = shipped.predict(checked.parameters, checked.tokens).perplexity
    assert checked not in shipped.runs and predicted == pytest.approx(checked.perplexity, rel=0.04)


def test_without_a_law_the_sentence_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no law to predict perplexity with; give the law\.json that"):
        read_law(str(tmp_path / "absent.json"))
