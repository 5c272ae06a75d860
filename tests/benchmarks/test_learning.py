"""The benchmark of learning: real runs of two recipes on a text of a few sentences."""

import json
from pathlib import Path

import pytest

from benchmarks import learning
from benchmarks.synthetic import Corpus, write_corpus

TINY = ["model.filters=[[1,8],[2,8]]", "model.lstm_dim=12", "model.projection_dim=6", "softmax.num_samples=64"]
TINY += ["data.lanes=4", "data.window=5", "train.max_steps=40"]


@pytest.mark.slow
def test_recipes_are_trained_once_and_compared_by_tokens_to_the_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (text,), _ = write_corpus(tmp_path / "text", Corpus(sentences=300, files=1))
    Path(text).write_text(Path(text).read_text().replace("\n", "\n\n<unk> of\n"))
    monkeypatch.setattr(learning, "_VALIDATE_TOKENS", 200)
    out, heldout = tmp_path / "out", tmp_path / "heldout.txt"
    lines = Path(text).read_text().splitlines(keepends=True)
    # With fewer than 256 bilm-tf scores none.
    heldout.write_text("".join([line for line in lines if line.strip()][:300]))
    command = [str(out), text, str(heldout), "--recipes=original,fast", "--closer=fast", "--target=5000", *TINY]
    learning.main(command)
    found = json.loads((out / "learning.json").read_text())
    assert found["original"][0]["tokens"] == found["fast"][0]["tokens"] == 800
    assert [tokens for tokens, _ in found["fast"][0]["curve"]] == [200, 400, 600, 800]
    assert found["original"][0]["tokens_to_target"] in (200, 400, 600, 800)
    fast = found["fast"][0]
    assert 1 < fast["as_bilm_tf_scores"] < found["original"][0]["perplexity"]
    assert fast["bilm_tf_tokens"] > 0 == fast["bilm_tf_tokens"] % 256
    assert (out / "learning.png").stat().st_size > 5000
    table = capsys.readouterr().out
    assert "| original |" in table and table == (out / "learning.md").read_text()
    unknown = (out / "data" / "lexicon.tsv").read_text().splitlines()[2]
    assert unknown == "<UNK>\t300"
    logs = {path: path.read_text() for path in out.glob("runs/*.log")}
    learning.main(command)
    assert json.loads((out / "learning.json").read_text()) == found
    assert all("nothing to do" in path.read_text().removeprefix(before) for path, before in logs.items())


def test_an_unknown_recipe_is_refused_with_a_list_of_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--recipes=slow is unknown; there are original, "):
        learning.main([str(tmp_path), "a.txt", "b.txt", "--recipes=slow"])
