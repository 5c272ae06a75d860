"""`elmo probe wsd`: nearest sense averages and F1 as a slow search computes them; every reader refuses bad data."""

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipeline import cli
from pipeline.config.probes import WsdProbeConfig
from pipeline.config.schema import ConfigError
from pipeline.tasks.metrics.senses import SenseScores
from pipeline.tasks.probes import word_senses
from pipeline.tasks.probes.layers import EncodedLayers, layer_names
from pipeline.tasks.probes.result import ProbeResult
from pipeline.tasks.probes.sense_examples import (
    Occurrence,
    SenseSentence,
    lemma_of,
    read_first_senses,
    read_sense_text,
)
from pipeline.tasks.probes.word_senses import SenseInventory, probe_wsd
from tests.model.numpy_bilm import NumpyBiLM
from tests.tasks.files import DATA, needs_shared, refused, write
from tests.tasks.probes import data
from tests.tasks.probes.data import GOLD, INDEX, SEMCOR, XML, write_senses

NO_FIRST = {"bell"}
RIGHT = [  # words, lemma, part of speech, right keys of each instance of XML
    (1, 2, "bank", "1", "bank%1:14:00:: bank%1:17:01::"), (2, 4, "take_place", "2", "take_place%2:30:00::"),
    (5, 6, "bright", "3", "bright%3:00:00::"), (0, 1, "art", "1", "art%1:09:00::"),
    (1, 2, "ring", "2", "ring%2:39:01::"), (2, 3, "bell", "1", "bell%1:06:00::"),
]  # fmt: skip
SENTENCES = [["The", "banks", "took", "place", "&", "brighter"], ["Art", "rings", "bells"]]


def expected_answers(layer: int) -> list[str]:
    """The key of each instance by the definition, "" for no answer: one occurrence, one sense at a time."""
    model = data.model()
    twin = NumpyBiLM(model.state_dict(), model.config)
    vectors: dict[str, list[np.ndarray]] = {}
    for sentence in SEMCOR:
        words, spans = [], {}
        for place, token in enumerate(sentence["tokens"]):
            spans[str(place)] = (len(words), len(words) + len(token.split("_")))
            words += token.split("_")
        layers = twin.layers(words)[layer]
        for place, keys in sentence["senses"].items():
            for key in keys:
                vectors.setdefault(key, []).append(layers[slice(*spans[place])].mean(0))
    first = {"art": "art%1:06:00::", "ring": "ring%2:39:01::"}
    answers = []
    for number, (begin, end, lemma, pos, _) in enumerate(RIGHT):
        x = twin.layers(SENTENCES[number // 3])[layer][begin:end].mean(0)
        means = {key: np.mean(of, 0) for key, of in vectors.items() if lemma_of(key) == (lemma, pos)}
        cosines = {key: x @ m / np.linalg.norm(x) / np.linalg.norm(m) for key, m in means.items()}
        answers.append(max(cosines, key=cosines.get) if cosines else first.get(lemma, ""))  # type: ignore[arg-type]
    return answers


def expected_f1(answers: list[str]) -> float:
    """P = right / answered, R = right / all."""
    right = sum(answer in keys.split() for answer, (*_, keys) in zip(answers, RIGHT, strict=True))
    precision, recall = right / sum(map(bool, answers)), right / len(answers)
    return 200 * precision * recall / (precision + recall)


def probed(model: Path, folder: Path, *options: str, name: str = "senseval2") -> dict:
    output = folder / "result.json"
    arguments = [*write_senses(folder, name), f"output={output}", *options]
    assert cli.main(["probe", "wsd", f"checkpoint={model}", *arguments]) == 0
    return json.loads(output.read_text())


def test_each_layer_s_f1_is_that_of_the_slow_search(model: Path, tmp_path: Path) -> None:
    found = probed(model, tmp_path)
    names = [*layer_names(3, "tokens")]
    assert [*found["scores"]] == [*names, "first sense"] and found["unseen"] == 3
    for layer, name in enumerate(names):
        assert found["scores"][name]["senseval2"]["f1"] == pytest.approx(expected_f1(expected_answers(layer)))
    baseline = ["bank%1:17:01::", "take_place%2:30:00::", "bright%3:00:00::", "art%1:06:00::", "ring%2:39:01::", ""]
    assert found["scores"]["first sense"]["senseval2"]["f1"] == pytest.approx(expected_f1(baseline))
    assert found["scores"]["first sense"]["senseval2"]["precision"] == pytest.approx(80)
    assert found["scores"]["first sense"]["senseval2"]["recall"] == pytest.approx(400 / 6)


def test_answers_do_not_depend_on_blocks(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = probed(model, tmp_path)
    monkeypatch.setattr(word_senses, "_BLOCK_WORDS", 1)
    assert probed(model, tmp_path) == whole


def test_sets_are_scored_apart_together_and_without_semeval2007(model: Path, tmp_path: Path) -> None:
    probed(model, tmp_path, name="semeval2007")
    second = f"test={tmp_path / 'semeval2007.data.xml'}"
    found = probed(model, tmp_path, second)
    assert found["instances"] == {"senseval2": 6, "semeval2007": 6, "all": 12, "without semeval2007": 6}
    for scores in found["scores"].values():
        assert scores["all"] == scores["senseval2"] == scores["without semeval2007"]


def test_the_framework_s_file_of_all_sets_is_taken_apart(model: Path, tmp_path: Path) -> None:
    xml, gold = (
        XML.replace('id="d000.s000.t', 'id="senseval3.d000.s000.t'),
        GOLD.replace("d000.s000", "senseval3.d000.s000"),
    )
    xml, gold = (
        xml.replace('id="d000.s001.t', 'id="semeval2007.d000.s001.t'),
        gold.replace("\nd000", "\nsemeval2007.d000"),
    )
    arguments = write_senses(tmp_path, "ALL", xml, gold)
    assert cli.main(["probe", "wsd", f"checkpoint={model}", *arguments, f"output={tmp_path / 'r.json'}"]) == 0
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["instances"] == {"senseval3": 3, "semeval2007": 3, "all": 6, "without semeval2007": 3}


def test_layers_of_another_program_give_the_same_result(model: Path, tmp_path: Path) -> None:
    expected = probed(model, tmp_path)
    text = tmp_path / "sentences.txt"
    assert cli.main(["probe", "wsd", *write_senses(tmp_path), f"sentences={text}"]) == 0
    assert text.read_text().splitlines()[2] == "A bank took place ."
    vectors = data.embed(model, text, tmp_path / "vectors.h5")
    output = tmp_path / "again.json"
    assert cli.main(["probe", "wsd", *write_senses(tmp_path), f"layers={vectors}", f"output={output}"]) == 0
    found = json.loads(output.read_text())
    values, again = ([*of["scores"].values()] for of in (expected, found))
    assert values == again and next(iter(found["scores"])) == "layer 0"


def test_any_encoder_can_be_probed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for an encoder: a function from texts to arrays."""

    @contextmanager
    def open_layers(config: WsdProbeConfig, texts: list[tuple[str, ...]]) -> Iterator[EncodedLayers]:
        def encode(block: list[tuple[str, ...]]) -> list[np.ndarray]:
            return [np.array([[[len(word), 1.0] for word in text]]) for text in block]

        yield EncodedLayers(texts, encode, ("length",), 2)

    monkeypatch.setattr(word_senses, "open_layers", open_layers)
    write_senses(tmp_path)
    config = WsdProbeConfig("none", semcor=[str(tmp_path / "semcor.jsonl")], sense_index=str(tmp_path / "index.sense"),
                            test=[str(tmp_path / "senseval2.data.xml")])  # fmt: skip
    found = probe_wsd(config)
    assert isinstance(found, ProbeResult) and [*found.record["scores"]] == ["length", "first sense"]


def test_the_scorer_counts_shares_of_keys_over_answered_and_over_all_instances() -> None:
    """By Scorer.java: 1, 1/2 and 0 of three answers, and a fourth instance without one."""
    scores = SenseScores()
    for gold, given in ((["a", "b"], ["b"]), (["a"], ["a", "c"]), (["a"], ["d"]), (["a"], [])):
        scores.update(gold, given)
    precision, recall = 150 / 3, 150 / 4
    f1 = 2 * precision * recall / (precision + recall)
    assert scores.result() == pytest.approx({"precision": precision, "recall": recall, "f1": f1})


def test_multiwords_become_words_and_markup_is_read(tmp_path: Path) -> None:
    write_senses(tmp_path)
    sentences = read_sense_text(str(tmp_path / "senseval2.data.xml"))
    assert [list(sentence.words) for sentence in sentences] == SENTENCES
    found = [o for sentence in sentences for o in sentence.occurrences]
    assert [(o.first, o.end, *o.lemma, " ".join(o.keys)) for o in found] == RIGHT


def test_a_text_with_senses_may_be_xml_too(tmp_path: Path) -> None:
    write_senses(tmp_path, "semcor")
    packed = tmp_path / "packed.data.xml.gz"
    packed.write_bytes(gzip.compress(XML.encode()))
    (tmp_path / "packed.gold.key.txt").write_text(GOLD)
    assert read_sense_text(str(packed)) == read_sense_text(str(tmp_path / "semcor.data.xml"))


@pytest.mark.parametrize(
    ("xml", "gold", "parts"),
    [
        (XML.replace("</wf>", "</f>", 1), GOLD, ("data.xml, line 5", "is not XML")),
        (XML.replace("<corpus", '<!DOCTYPE c [<!ENTITY a "b">]><corpus'), GOLD, ("line 2", "declares an entity")),
        (XML.replace('pos="VERB"', 'pos="PRON"', 1), GOLD, ("line 7", "part", "NOUN, VERB, ADJ, ADV")),
        (XML.replace("t001", "t000", 1), GOLD, ("line 7", "second instance", "d000.s000.t000")),
        (XML.replace('pos="DET">', 'pos="DET"><wf>'), GOLD, ("line 5", "inside a word")),
        (XML, GOLD.replace("d000.s001.t000", "d000.s001.t009"), ("line 12", "for which", "holds no sense")),
        (XML, GOLD + "d000.s009.t000 art%1:09:00::\n", ("gold.key.txt, line 7", "no instance of")),
        (XML, GOLD + "d000.s000.t000 art%1:09:00::\n", ("gold.key.txt, line 7", "as line 1 does")),
        (XML, GOLD.replace("art%1:09:00::", "art.n.01"), ("gold.key.txt, line 4", "art.n.01", "no sense key")),
        (XML, GOLD.replace(" art%1:09:00::", ""), ("gold.key.txt, line 4", "no sense key")),
        ("<a></a>", "x.y.z a%1:00:00::\n", ("line 1", "no instance")),
    ],
)  # fmt: skip
def test_bad_test_sets_are_refused_with_file_and_line(
    tmp_path: Path, xml: str, gold: str, parts: tuple[str, ...], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["probe", "wsd", f"checkpoint={model}", *write_senses(tmp_path, "x", xml, gold)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and all(part in said for part in parts), said


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ("holds no example",)),
        ('{"tokens": ["a"], "senses": {}}\n', ("holds no example",)),
        ('{"tokens": ["a"]}\n', ("line 1", "senses")),
        ('{"tokens": ["a"], "senses": {"1": ["art%1:09:00::"]}}\n', ("line 1", "token '1'", "1 tokens count from 0")),
        ('\n{"tokens": ["a"], "senses": {"0": ["art"]}}\n', ("line 2", "'art'", "no sense key")),
        ('{"tokens": ["a"], "senses": {"0": []}}\n', ("line 1", "empty list")),
        ('{"tokens": [], "senses": {}}\n', ("line 1", "no tokens")),
    ],
)
def test_bad_sense_text_is_refused_with_file_and_line(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    refused(lambda path: read_sense_text(str(path)), tmp_path / "a.jsonl", text, *parts)


def test_a_bad_sense_index_is_refused_with_file_and_line(tmp_path: Path) -> None:
    def read(path: Path) -> object:
        return read_first_senses(str(path))

    refused(read, tmp_path / "a", INDEX + "word 3\n", "line 9", "no line of WordNet's index.sense")
    refused(read, tmp_path / "a", "", "holds no example")
    refused(read, tmp_path / "a", "art%1:09:00:: 1 3 4\n", "no first sense")
    assert read_first_senses(str(write(tmp_path / "a", INDEX)))["bright", "3"] == "bright%3:00:00::"


def test_keys_that_are_not_beside_the_text_are_asked_for(tmp_path: Path, model: Path) -> None:
    write(tmp_path / "odd.xml", XML)
    write(tmp_path / "keys", GOLD)
    arguments = write_senses(tmp_path)
    given = dict(argument.split("=") for argument in arguments)
    config = {"semcor": [given["semcor"]], "sense_index": given["sense_index"], "test": [str(tmp_path / "odd.xml")]}
    with pytest.raises(ValueError, match="name its sense keys by gold="):
        probe_wsd(WsdProbeConfig(str(model), **config))  # type: ignore[arg-type]
    assert probe_wsd(WsdProbeConfig(str(model), gold=[str(tmp_path / "keys")], **config))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="names 2 files for 1"):
        probe_wsd(WsdProbeConfig(str(model), gold=["a", "b"], **config))  # type: ignore[arg-type]


@needs_shared
def test_real_sets_have_the_sizes_that_their_authors_give() -> None:
    folder = DATA / "wsd"
    for name, sentences, instances in (("semeval2007", 135, 455), ("senseval2", 242, 2282), ("senseval3", 352, 1850)):
        found = read_sense_text(str(folder / f"{name}.data.xml.xz"))
        assert (len(found), sum(len(sentence.occurrences) for sentence in found)) == (sentences, instances)
        assert all(lemma_of(key) == o.lemma for sentence in found for o in sentence.occurrences for key in o.keys)


@needs_shared
def test_the_first_sense_scores_what_is_published() -> None:
    """66.8, 66.2 and 55.2 by Raganato et al. 2017, table 2."""
    folder, first = DATA / "wsd", read_first_senses(str(DATA / "wsd" / "wordnet30-index.sense.xz"))
    for name, published in (("senseval2", 66.8), ("senseval3", 66.2), ("semeval2007", 55.2)):
        scores = SenseScores()
        for sentence in read_sense_text(str(folder / f"{name}.data.xml.xz")):
            for occurrence in sentence.occurrences:
                scores.update(occurrence.keys, [first[occurrence.lemma]])
        assert round(scores.result()["f1"], 1) == published


def test_of_senses_that_are_equally_near_the_one_that_comes_first_in_the_text_is_taken() -> None:
    """One word form has one vector in a layer without context, so that rounding must not decide."""
    text = [SenseSentence(("bank",), (Occurrence(0, 1, ("bank", "1"), (f"bank%1:{n}::",)),)) for n in (14, 17, 20)]
    inventory = SenseInventory(text, {("bank", "1")})
    x = np.random.default_rng(0).normal(size=64)
    senses = np.stack([x * 3 + 1e-9, np.float32(x) * 0.7, -x])
    assert word_senses._nearest_keys(np.stack([x, -x]), senses, [[0, 1, 2]] * 2, inventory) == [
        "bank%1:14::",
        "bank%1:20::",
    ]
