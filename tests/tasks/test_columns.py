"""CoNLL columns: any column, every tag scheme, and files that are refused."""

import random
from functools import partial
from pathlib import Path

import pytest

from pipeline.tasks.examples.columns import read_columns, scheme_of, write_columns
from pipeline.tasks.examples.tags import Scheme, TagFault, find_scheme, from_bioes, to_bioes
from pipeline.tasks.examples.types import TaggedSentence
from tests.tasks.excerpts import WIKIGOLD
from tests.tasks.files import DATA, needs_shared, refused, write

PARTS_OF_SPEECH = "Al\tPROPN\tNNP\n-\tPUNCT\tHYPH\n\n#1\tNUM\tCD\n"
CONLL2003 = (
    "-DOCSTART- -X- -X- O\n\nEU NNP B-NP I-ORG\nrejects VBZ B-VP O\nGerman JJ B-NP I-MISC\nBritish JJ B-NP B-MISC\n"
    ". . O O\n\n"
)
CONLLU = (
    "# sent_id = 1\n# text = Vámonos al mar\n1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_\n"
    "1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_\n2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_\n\n"
)
SAME = {  # one sentence with the entities X (2 words), X and Y in each scheme
    "IOB2": "O B-X I-X B-X O B-Y",
    "IOB1": "O I-X I-X B-X O I-Y",
    "BIOES": "O B-X E-X S-X O S-Y",
    "BILOU": "O B-X L-X U-X O U-Y",
}


def test_entities_of_a_real_excerpt_are_read_as_bioes(tmp_path: Path) -> None:
    found = read_columns(write(tmp_path / "a", WIKIGOLD), entities=True)
    assert found[0].words == ("010", "is", "Japanese", "Punk", "The", "Mad", "Capsule", ".")
    assert found[0].tags == ("S-MISC", "O", "S-MISC", "O", "B-ORG", "I-ORG", "E-ORG", "O")
    assert found[1] == TaggedSentence(("This",), ("O",)) and found[1].texts() == (("This",),)


def test_any_column_can_be_the_tag(tmp_path: Path) -> None:
    path = write(tmp_path / "a", PARTS_OF_SPEECH)
    assert [s.tags for s in read_columns(path, tag_column=1)] == [("PROPN", "PUNCT"), ("NUM",)]
    assert [s.tags for s in read_columns(path)] == [("NNP", "HYPH"), ("CD",)]
    assert read_columns(path, tag_column=None) == [TaggedSentence(("Al", "-"), ()), TaggedSentence(("#1",), ())]


def test_conll2003_is_read_without_document_lines(tmp_path: Path) -> None:
    found = read_columns(write(tmp_path / "a", CONLL2003), entities=True)
    assert found == [
        TaggedSentence(("EU", "rejects", "German", "British", "."), ("S-ORG", "O", "S-MISC", "S-MISC", "O"))
    ]
    assert scheme_of(tmp_path / "a") == "IOB1"


def test_conllu_is_read_without_comments_and_multiword_tokens(tmp_path: Path) -> None:
    found = read_columns(write(tmp_path / "a", CONLLU), word_column=1, tag_column=3)
    assert found == [TaggedSentence(("Vamos", "nos"), ("VERB", "PRON"))]


@pytest.mark.parametrize("scheme", SAME)
def test_each_scheme_is_recognised_and_converted_to_bioes_and_back(scheme: Scheme) -> None:
    tags = SAME[scheme].split()
    assert find_scheme([tags]) == scheme
    assert to_bioes(tags, scheme) == tuple(SAME["BIOES"].split())
    assert from_bioes(SAME["BIOES"].split(), scheme) == tuple(tags)


@pytest.mark.parametrize("scheme", SAME)
def test_random_entities_are_unchanged_after_conversion_and_back(scheme: Scheme) -> None:
    draw = random.Random(0)
    for _ in range(300):
        tags: list[str] = []
        while len(tags) < 8:
            size, kind = draw.randint(1, 3), draw.choice("XYO")
            inside = [f"I-{kind}"] * (size - 2)
            entity = [f"S-{kind}"] if size == 1 else [f"B-{kind}", *inside, f"E-{kind}"]
            tags += ["O"] * size if kind == "O" else entity
        assert to_bioes(from_bioes(tags, scheme), scheme) == tuple(tags)


@pytest.mark.parametrize("tags", ["O I-X", "B-X I-Y"])
def test_tags_that_do_not_fit_their_scheme_are_refused(tags: str) -> None:
    with pytest.raises(TagFault):
        to_bioes(tags.split(), "IOB2")


def test_predictions_are_written_as_one_more_column(tmp_path: Path) -> None:
    source = write(tmp_path / "a", CONLL2003)
    sentences = read_columns(source, entities=True)
    write_columns(source, tmp_path / "b", [sentence.tags for sentence in sentences], "IOB1")
    lines = (tmp_path / "b").read_text().splitlines()
    assert lines[0] == "-DOCSTART- -X- -X- O" and lines[2] == "EU NNP B-NP I-ORG I-ORG" and lines[-1] == ""
    assert read_columns(tmp_path / "b", entities=True) == sentences


BROKEN = {
    "unequal columns": ("EU NNP I-ORG\nrejects O\n", "line 2", "2 columns, but line 1 has 3"),
    "no entity tag": ("EU NNP I-ORG\n\nThe DT DT\n", "line 3", "'DT' is no entity tag"),
    "a prefix without type": ("EU I-\n", "line 1", "'I-' is no entity tag"),
    "neither IOB1 nor IOB2": ("a I-X\nb O\nc B-X\n", "line 3", "neither IOB1 nor IOB2"),
    "E without B": ("a B-X\nb E-X\nc E-X\n", "line 3", "E-X must not follow E-X"),
    "an entity without end": ("a S-X\nb B-X\n\nc O\n", "line 2", "ends the sentence inside an entity"),
    "two schemes at once": ("a S-X\nb U-X\n", "use one scheme"),
    "an empty word": ("a\tO\n\tO\n", "line 2", "empty word or tag"),
    "one column": ("a\nb\n", "would be both word and tag"),
    "only empty lines": ("\n\n", "holds no example"),
    "only document lines": ("-DOCSTART- O\n\n", "holds no example"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_columns_are_refused_with_file_and_line(tmp_path: Path, kind: str) -> None:
    text, *parts = BROKEN[kind]
    refused(partial(read_columns, entities=True), tmp_path / "a.conll", text, *parts)


def test_a_missing_column_is_refused(tmp_path: Path) -> None:
    refused(partial(read_columns, tag_column=5), tmp_path / "a", PARTS_OF_SPEECH, "3 columns, but column 5")


@needs_shared
@pytest.mark.parametrize(
    ("name", "sentences", "tokens", "entities"),
    [("wnut17.train", 3394, 62_730, 1975), ("wnut17.dev", 1009, 15_733, 836), ("wikigold", 1696, 39_007, 3558)],
)
def test_the_counts_of_real_entities_are_right(name: str, sentences: int, tokens: int, entities: int) -> None:
    found = read_columns(DATA / "ner" / f"{name}.conll.xz", entities=True)
    begun = sum(tag[0] in "BS" for sentence in found for tag in sentence.tags)
    assert (len(found), sum(len(s.words) for s in found), begun) == (sentences, tokens, entities)


@needs_shared
def test_the_counts_of_real_parts_of_speech_are_right() -> None:
    found = read_columns(DATA / "pos" / "ewt.dev.tsv.xz", tag_column=2)
    assert (len(found), sum(len(sentence.words) for sentence in found)) == (2001, 25_147)
