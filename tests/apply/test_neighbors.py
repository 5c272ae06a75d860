"""`elmo neighbors`: the exact nearest occurrences by cosine, in a corpus that is embedded once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity

from pipeline import cli
from pipeline.apply.embed import neighbors as module
from pipeline.apply.embed import vector_parts as parts
from pipeline.apply.embed.embed import embed_sentences
from pipeline.apply.embed.neighbors import neighbors
from pipeline.config.commands import NeighborsConfig
from pipeline.model.formats.pretrained import save_pretrained
from tests.model import tiny
from tests.processes import killed_at

QUERY = "the play a"


def sentences() -> list[list[str]]:
    generator = np.random.default_rng(0)
    words = ["the", "a", "play", "naïve", "漢字", "playing", "stage", "game"]
    return [generator.choice(words, generator.integers(0, 9)).tolist() for _ in range(120)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_pretrained(folder, tiny.bilm(tiny.config()).core())
    return folder


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(parts, "_PART_WORDS", 50)
    path = tmp_path / "corpus.txt"
    path.write_text("".join(" ".join(words) + "\n" for words in sentences()), "utf-8")
    return path


def find(model: Path, text: Path, **options: Any) -> module.Neighbors:
    return neighbors(NeighborsConfig(**{
        "checkpoint": str(model), "corpus": [str(text)], "word": "play", "sentence": QUERY, "k": 7, **options
    }))  # fmt: skip


def search_plainly(layer: int, word: str | None) -> list[tuple[float, int, int]]:
    """Return (cosine, sentence, position) of all occurrences, the nearest first."""
    bilm = tiny.bilm(tiny.config()).core()
    query = embed_sentences(bilm, [QUERY.split()])[0][layer, 1]
    found = []
    for number, (words, layers) in enumerate(zip(sentences(), embed_sentences(bilm, sentences()), strict=True)):
        for position, one in enumerate(words):
            if word in (one, None):
                found.append((float(cosine_similarity(layers[layer, position], query, dim=0)), number, position))
    return sorted(found, reverse=True)


@pytest.mark.parametrize("layer", ["top", "1"])
@pytest.mark.parametrize("any_word", [False, True])
def test_the_nearest_occurrences_equal_those_of_a_plain_search(
    model: Path, corpus: Path, layer: str, any_word: bool
) -> None:
    expected = search_plainly(2 if layer == "top" else 1, None if any_word else "play")
    result = find(model, corpus, layer=layer, any=any_word)
    assert result.searched == len(expected) and not result.is_approximate
    assert [n.cosine for n in result.found] == pytest.approx([cosine for cosine, *_ in expected[:7]], abs=2e-3)
    for neighbor in result.found:
        number = int(neighbor.place.rpartition(":")[2]) - 1
        assert neighbor.words == sentences()[number] and neighbor.place.startswith(str(corpus))
        cosine = next(c for c, s, p in expected if (s, p) == (number, neighbor.position))
        assert neighbor.cosine == pytest.approx(cosine, abs=2e-3)
    assert any_word or all(n.words[n.position] == "play" for n in result.found)


def test_an_index_of_cells_finds_the_same_neighbours(
    model: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    exact = find(model, corpus, any=True)
    monkeypatch.setattr(module, "APPROXIMATE_FROM", 100)
    for _ in range(2):  # made the first time, read the second time
        found = find(model, corpus, any=True)
        assert found.is_approximate and [n.cosine for n in found.found] == pytest.approx(
            [n.cosine for n in exact.found], abs=2e-3
        )
        assert {(n.place, n.position) for n in found.found} == {(n.place, n.position) for n in exact.found}
    assert not find(model, corpus, any=True, approximate="false").is_approximate
    assert not find(model, corpus).is_approximate  # one word has few occurrences


def test_the_corpus_is_embedded_once_and_embedding_resumes_after_a_kill(model: Path, corpus: Path) -> None:
    folder = corpus.with_name("corpus.txt.neighbors")
    kills = 0
    while killed_at(4, lambda: find(model, corpus)) and kills < 20:
        kills += 1
    assert kills > 2
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    killed = find(model, corpus, layer="top")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    whole = find(model, corpus, index=str(corpus.with_name("another")))
    assert killed.as_dict() == whole.as_dict()
    size = sum(path.stat().st_size for path in folder.glob("*.npy"))
    words = sum(map(len, sentences()))
    assert size - 128 * len(list(folder.glob("*.npy"))) == words * 10 * 2  # one layer in float16


def test_contexts_are_printed_and_written(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = [f"checkpoint={model}", f"corpus={corpus}", "word=play", f"sentence={QUERY}", "k=3"]
    assert cli.main(["neighbors", *pairs, f"output={tmp_path / 'out.json'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and all("[play]" in line for line in lines[1:]) and "the sentence given" in lines[1]
    written = json.loads((tmp_path / "out.json").read_text())
    assert len(written["neighbors"]) == 3 and written["query"]["words"] == QUERY.split()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sentence": "no such word"}, "holds word='play' 0 times"),
        ({"occurrence": 2}, "occurrence=2"),
        ({"layer": "all"}, "must be top, average or a layer's number"),
        ({"layer": "9"}, "layer 9 must be one of"),
        ({"word": "unseen", "sentence": "unseen here"}, "does not occur in the corpus"),
        ({"corpus": ["-"]}, "must be files"),
        ({"k": 0}, "k=0"),
    ],
)
def test_wrong_options_are_reported_in_one_error(
    model: Path, corpus: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        find(model, corpus, **options)


def test_an_index_of_another_layer_is_refused(model: Path, corpus: Path) -> None:
    find(model, corpus)
    with pytest.raises(ValueError, match=r"begun with another layer, dtype or precision; .* or another index= folder"):
        find(model, corpus, layer="1")
    assert find(model, corpus, layer="1", overwrite=True).found
    assert not torch.is_inference_mode_enabled()
