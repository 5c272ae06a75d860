"""`elmo probe pairs`: log-probabilities are the slow model's, whatever sentences share; shares are counted by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import cli
from pipeline.config.probes import PairsProbeConfig
from pipeline.model.formats.pretrained import save_pretrained
from pipeline.tasks.probes import prefix_scorer
from pipeline.tasks.probes.minimal_pairs import probe_pairs, read_pairs
from pipeline.tasks.probes.prefix_scorer import PrefixScorer, tree_of
from tests.model import tiny
from tests.model.numpy_bilm import NumpyBiLM
from tests.tasks.files import SHARED, refused
from tests.tasks.probes import data
from tests.tasks.probes.data import PAIRS, WORDS

SENTENCES = [
    ("the", "cat", "sleeps", "."), ("the", "cat", "sleep", "."), ("the", "cat"), ("cat",), ("dog",),
    ("the", "cat", "sleeps", "."), ("漢字", "the", "cat", "sleeps", "."), ("a", *["cat"] * 9, "."), ("the", "dog", "."),
    ("<UNK>", "the"),
]  # fmt: skip


def by_numpy(sentence: tuple[str, ...]) -> list[float]:
    """Log-probability of the targets w1 ... wn </S> and of wn ... w1 <S>, each read from a cold state."""
    model = data.model()
    twin = NumpyBiLM(model.state_dict(), model.config)
    reads = [["<S>", *sentence], ["</S>", *sentence[::-1]]]
    targets = [[*sentence, "</S>"], [*sentence[::-1], "<S>"]]
    ids = np.array([[WORDS.index(word) if word in WORDS else 2 for word in row] for row in targets])
    layers, _ = twin.run([[[word] for word in row] for row in reads], twin.cold_states(1))
    return list(-twin.losses(layers[-1], ids[..., None])[..., 0].sum(1))


@pytest.mark.parametrize("chunk", [2, 4096])
def test_scores_are_those_of_the_slow_model(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_scorer, "_CHUNK_SENTENCES", chunk)
    done: list[int] = []
    scores = PrefixScorer(data.model(), WORDS).score(SENTENCES, done.append)
    assert done[-1] == len(SENTENCES) and scores.shape == (2, len(SENTENCES))
    for number, sentence in enumerate(SENTENCES):
        np.testing.assert_allclose(scores[:, number], by_numpy(sentence), atol=1e-4)


def test_bfloat16_comes_close() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        scores = PrefixScorer(data.model(), WORDS).score(SENTENCES)
    np.testing.assert_allclose(scores.T, [by_numpy(sentence) for sentence in SENTENCES], rtol=0.05)


def test_what_sentences_begin_with_stands_in_the_tree_once() -> None:
    sentences = np.array([[5, 6, 7], [5, 6, 0], [5, 7, 8], [9, 0, 0]])
    levels, nodes = tree_of(sentences, np.array([3, 2, 3, 1]), root=4)
    assert [len(level.words) for level in levels] == [1, 2, 2, 2]
    assert levels[0].words.tolist() == [4]
    for row, length in enumerate([3, 2, 3, 1]):
        node, path = nodes[row, length], []
        for level in levels[length:0:-1]:
            path.append(int(level.words[node]))
            node = level.parents[node]
        assert path[::-1] == sentences[row, :length].tolist() and node == 0


@pytest.fixture
def result(model: Path, tmp_path: Path) -> dict:
    path = data.write_pairs(tmp_path / "pairs.jsonl")
    output = tmp_path / "result.json"
    assert cli.main(["probe", "pairs", f"checkpoint={model}", f"data={path}", f"output={output}"]) == 0
    return json.loads(output.read_text())


def test_shares_are_those_of_the_slow_model_by_field_and_by_paradigm(result: dict) -> None:
    texts = [(pair["sentence_good"], pair["sentence_bad"]) for pair in PAIRS]
    words = [[tuple(text.replace(".", " .").replace("?", " ?").split()) for text in pair] for pair in texts]
    scores = np.array([[by_numpy(sentence) for sentence in pair] for pair in words])
    right = {"forward": scores[:, 0, 0] > scores[:, 1, 0], "backward": scores[:, 0, 1] > scores[:, 1, 1],
             "both": scores[:, 0].sum(1) > scores[:, 1].sum(1)}  # fmt: skip
    known = np.array([all(word in WORDS for sentence in pair for word in sentence) for pair in words])
    groups = {"all": slice(None), "morphology": slice(0, 2), "syntax_semantics": slice(2, 4), "": slice(4, 5),
              "agreement": slice(0, 2), "order": slice(2, 4), "other": slice(4, 5)}  # fmt: skip
    found = {"all": result["all"]} | result["fields"] | result["paradigms"]
    assert found.keys() == groups.keys() and not known.all()
    for name, of in groups.items():
        assert found[name]["pairs"] == len(known[of]) and found[name]["with_unknown_words"] == sum(~known[of])
        for way, is_right in right.items():
            assert found[name][way] == pytest.approx(100 * is_right[of].mean())
            assert found[name]["known"][way] == pytest.approx(100 * is_right[of][known[of]].mean())


def test_a_group_without_known_pairs_has_no_share_of_them(model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(PAIRS[0] | {"sentence_bad": "zebra"}))
    found = probe_pairs(PairsProbeConfig(str(model), data=[str(tmp_path / "a.jsonl")]))
    assert found.record["all"]["known"]["both"] is None and "None" not in str(found)


def test_the_table_has_each_field_and_paradigm(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = data.write_pairs(tmp_path / "pairs.jsonl")
    assert cli.main(["probe", "pairs", f"checkpoint={model}", f"data={path}"]) == 0
    out = capsys.readouterr().out
    firsts = [line.split("  ")[0] for line in out.splitlines()]
    assert {"morphology", "syntax_semantics", "all", "agreement", "order"} <= set(firsts)
    assert "10 sentences in" in out and "a second" in out


def test_a_folder_of_files_is_read_and_sentences_are_split_as_the_tokeniser_does(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        data.write_pairs(tmp_path / name)
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"sentence_good": "He didn't. She did.", "sentence_bad": "a  b", "UID": "x"})
    )
    pairs = read_pairs(PairsProbeConfig(data=[str(tmp_path)]))
    assert len(pairs) == 2 * len(PAIRS) + 1
    assert pairs[0].good == ("The", "cats", "sleep", ".")
    assert pairs[-1].good == ("He", "did", "n't", ".", "She", "did", ".") and pairs[-1].bad == ("a", "b")
    plain = read_pairs(PairsProbeConfig(data=[str(tmp_path)], tokenize=False))
    assert plain[0].good == ("The", "cats", "sleep.")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("holds no example",)),
        ('{"sentence_good": "a", "UID": "x"}\n', ("line 1", "sentence_bad")),
        (json.dumps(PAIRS[0]) + "\n\nno json\n", ("line 3", "sentence_good")),
        (json.dumps(PAIRS[0] | {"sentence_bad": " "}), ("line 1", "empty sentence")),
        (json.dumps(PAIRS[0] | {"UID": 3}), ("line 1", "UID")),
    ],
)
def test_bad_pairs_are_refused_with_file_and_line(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    refused(lambda path: read_pairs(PairsProbeConfig(data=[str(path)])), tmp_path / "a.jsonl", text, *parts)


def test_a_model_without_softmax_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_pretrained(tmp_path / "bare", tiny.bilm(tiny.config()).core())
    path = data.write_pairs(tmp_path / "pairs.jsonl")
    assert cli.main(["probe", "pairs", f"checkpoint={tmp_path / 'bare'}", f"data={path}"]) == 2
    assert "has no softmax" in capsys.readouterr().err


BLIMP = SHARED / "data" / "grammar" / "blimp.jsonl.xz"


@pytest.mark.skipif(not BLIMP.is_file(), reason=f"BLiMP is not at {BLIMP} (../shared)")
def test_blimp_has_67_paradigms_of_1000_pairs_in_four_fields() -> None:
    pairs = read_pairs(PairsProbeConfig(data=[str(BLIMP)]))
    assert len(pairs) == 67_000 and len({pair.paradigm for pair in pairs}) == 67
    assert {pair.field for pair in pairs} == {"morphology", "semantics", "syntax", "syntax_semantics"}
