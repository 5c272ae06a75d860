"""The tokens that bilm-tf scores, by the benchmark's command."""

import json
from pathlib import Path

import pytest

from benchmarks import bilm_tf_scoring
from benchmarks.bilm_tf_scoring import scored_tokens
from pipeline.apply.evaluate import evaluate
from pipeline.config.commands import EvaluateCommandConfig
from tests.train import runs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bilm-tf")
    runs.train_here(runs.make_dataset(folder), folder / "run", "data.vocab_size=300", "train.max_steps=5")
    return folder / "run"


def test_bilm_tf_scores_tokens_only_while_all_lanes_have_text() -> None:
    assert scored_tokens([3, 2, 4, 9], lanes=2) == [3, 2, 4, 3]  # lane 1 takes the third sentence, lane 0 the fourth
    assert scored_tokens([5], lanes=2) == [0] and scored_tokens([], lanes=1) == []
    assert scored_tokens([2, 3, 1], lanes=1) == [2, 3, 1]


def test_with_one_lane_each_token_is_scored_as_by_elmo_evaluate(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, output = trained.parent / "heldout.txt", tmp_path / "result.json"
    bilm_tf_scoring.main([str(trained), str(text), "--lanes=1", f"--output={output}"])
    result = evaluate(EvaluateCommandConfig(checkpoint=str(trained), data=[str(text)], accelerator="cpu"))
    assert result is not None
    found, expected = json.loads(output.read_text()), result.perplexity
    assert found["tokens"] == expected.tokens and found["forward"] != found["backward"]
    for name in ("forward", "backward", "both"):
        assert found[name] == pytest.approx(getattr(expected, name), rel=1e-6)
    assert f"forward {expected.forward:.2f}, backward {expected.backward:.2f}, both" in capsys.readouterr().out


def test_more_lanes_score_fewer_tokens_and_too_many_lanes_score_none(trained: Path, tmp_path: Path) -> None:
    text, output = trained.parent / "heldout.txt", tmp_path / "result.json"
    bilm_tf_scoring.main([str(trained), str(text), "--lanes=16", f"--output={output}"])
    lengths = [len(line.split()) + 1 for line in text.read_text().splitlines()]
    found = json.loads(output.read_text())
    assert found["tokens"] == sum(scored_tokens(lengths, 16)) < sum(lengths) and found["tokens"] % 16 == 0
    with pytest.raises(SystemExit, match="has 100 sentences; with 256 lanes bilm-tf scores none"):
        bilm_tf_scoring.main([str(trained), str(text)])
    with pytest.raises(SystemExit, match="CHECKPOINT HELDOUT"):
        bilm_tf_scoring.main([str(trained)])
