"""`elmo score`: probabilities equal those of the slow model, and totals those of `elmo evaluate`."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.apply.embed.text import Sentence
from pipeline.apply.evaluate import evaluate
from pipeline.apply.score import Scorer, Scores, score
from pipeline.config.commands import EvaluateCommandConfig, ScoreConfig
from pipeline.config.schema import EvaluateConfig
from pipeline.model.bilm import BiLM
from pipeline.model.formats.pretrained import save_pretrained
from pipeline.model.language_model import LanguageModel
from tests.model import tiny
from tests.model.numpy_bilm import NumpyBiLM

WORDS = ["<S>", "</S>", "<UNK>", "the", "a", "cat", "sat"]
SENTENCES = ["the cat sat", "a", "the dog 漢字 sat", "cat " * 50 + "<UNK>", "the cat sat"]


@pytest.fixture(scope="module")
def bilm() -> LanguageModel:
    return tiny.bilm(tiny.config(), len(WORDS))


@pytest.fixture(scope="module")
def model(bilm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_pretrained(folder, bilm, words=WORDS, counts=np.arange(7, 0, -1))
    return folder


def by_numpy(bilm: LanguageModel, sentence: list[str]) -> np.ndarray:
    """Return (2, n + 1): -log p of w1 ... wn </S> and of wn ... w1 <S>, each from a cold start."""
    twin = NumpyBiLM(bilm.state_dict(), bilm.config)
    reads = [["<S>", *sentence], ["</S>", *sentence[::-1]]]
    targets = [[*sentence, "</S>"], [*sentence[::-1], "<S>"]]
    ids = np.array([[WORDS.index(w) if w in WORDS else 2 for w in row] for row in targets])
    layers, _ = twin.run([[[w] for w in row] for row in reads], twin.cold_states(1))
    return twin.losses(layers[-1], ids[..., None])[..., 0]


def scored(bilm: LanguageModel, sentences: list[str]) -> list:
    return Scorer(bilm, WORDS).score([Sentence("x", n, s.split(), s) for n, s in enumerate(sentences, 1)])


def test_every_probability_equals_that_of_the_slow_model(bilm: LanguageModel) -> None:
    for found, text in zip(scored(bilm, SENTENCES), SENTENCES, strict=True):
        expected = by_numpy(bilm, text.split())
        forward, backward = found.log_probabilities
        assert forward == pytest.approx(-expected[0].sum(), abs=1e-4)
        assert backward == pytest.approx(-expected[1].sum(), abs=1e-4)
        assert np.allclose(found.surprisals[0], expected[0, :-1] / math.log(2), atol=1e-5)
        assert np.allclose(found.surprisals[1], expected[1, :-1][::-1] / math.log(2), atol=1e-5)
        assert found.bounds == pytest.approx((expected[0, -1] / math.log(2), expected[1, -1] / math.log(2)), abs=1e-5)


def test_words_outside_the_vocabulary_are_flagged(bilm: LanguageModel) -> None:
    assert [found.unknown for found in scored(bilm, SENTENCES)] == [[], [], [1, 2], [50], []]


def test_other_sentences_of_a_batch_do_not_matter(bilm: BiLM) -> None:
    together = scored(bilm, SENTENCES)
    for found, text in zip(together, SENTENCES, strict=True):
        assert np.allclose(found.nats, scored(bilm, [text])[0].nats, atol=1e-5)


def test_totals_equal_those_of_evaluate_if_each_sentence_has_a_cold_start(model: Path, tmp_path: Path) -> None:
    """One sentence a text, so that evaluate carries no state into a sentence."""
    for number, sentence in enumerate(SENTENCES):
        path = tmp_path / f"{number}.txt"
        path.write_text(f"{sentence}\n", "utf-8")
        ours = score(ScoreConfig(str(model), [str(path)], str(tmp_path / "out.tsv")))
        config = EvaluateCommandConfig(str(model), [str(path)], accelerator="cpu", evaluate=EvaluateConfig(lanes=1))
        theirs = evaluate(config)
        assert theirs is not None and ours.tokens == theirs.perplexity.tokens
        perplexities = theirs.perplexity.forward, theirs.perplexity.backward, theirs.perplexity.both
        assert ours.perplexities == pytest.approx(perplexities, rel=1e-5)


def test_a_file_has_one_line_for_each_sentence_or_for_each_word(
    model: Path, bilm: LanguageModel, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("\n".join([SENTENCES[0], "", *SENTENCES[1:]]), "utf-8")
    for suffix in ("jsonl", "tsv"):
        pairs = [f"input={tmp_path / 'text.txt'}", f"output={tmp_path / f'out.{suffix}'}"]
        assert cli.main(["score", f"checkpoint={model}", *pairs]) == 0
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["line"] for row in rows] == [1, 3, 4, 5, 6]  # the empty line has no score and keeps its number
    table = [line.split("\t") for line in (tmp_path / "out.tsv").read_text("utf-8").splitlines()]
    assert table[0][3:] == ["word", "is_unknown", "forward_bits", "backward_bits"]
    for found, row in zip(scored(bilm, SENTENCES), rows, strict=True):
        words = [cells for cells in table[1:] if cells[1] == str(row["line"])]
        assert [cells[3] for cells in words] == ["<S>", *found.sentence.words, "</S>"]
        assert [n - 1 for n, cells in enumerate(words) if cells[4] == "1"] == row["unknown"] == found.unknown
        for column, name, logarithm in ((5, "forward", "log_probability_forward"), (6, "backward", None)):
            bits = [float(cells[column]) for cells in words if cells[column]]
            total = row[logarithm or "log_probability_backward"]
            assert sum(bits) * math.log(2) == pytest.approx(-total, rel=1e-9)
            assert bits[0 if name == "forward" else 1 :][: len(row["words"])] == row[f"surprisal_{name}_bits"]


def test_the_table_names_its_logarithm_and_marks_unknown_words(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("the dog sat\n")
    assert cli.main(["score", f"checkpoint={model}", f"input={tmp_path / 'text.txt'}"]) == 0
    out = capsys.readouterr().out
    assert "natural logarithms" in out and "the dog* sat" in out and "1 words as <UNK>" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output": "none/x.tsv"}, "there is no folder none"),
        ({"output": "x.csv"}, "must end in .jsonl or .tsv"),
        ({"input": "none.txt"}, "none.txt"),
        ({}, "has no softmax"),
    ],
)
def test_wrong_options_give_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, str], message: str
) -> None:
    save_pretrained(tmp_path / "bare", BiLM(tiny.config()))
    (tmp_path / "text.txt").write_text("a\n")
    given = {"checkpoint": tmp_path / "bare", "input": tmp_path / "text.txt", **options}
    assert cli.main(["score", *(f"{name}={value}" for name, value in given.items())]) == 2
    assert message in capsys.readouterr().err


def test_without_sentences_there_is_no_perplexity() -> None:
    assert str(Scores()) == "no sentences"
