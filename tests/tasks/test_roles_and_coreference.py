"""Semantic roles and coreference, as JSON lines and in CoNLL-2012 files, which hold both."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.tasks.examples.coreference import read_coreference, write_coreference
from pipeline.tasks.examples.predicate_frames import read_predicate_frames, write_predicate_frames
from pipeline.tasks.examples.types import CorefDocument, PredicateFrame
from tests.tasks.excerpts import CONLL2012, DRACULA, STORY, document, json_line
from tests.tasks.files import DATA, needs_shared, refused, write


def frame(**changes: Any) -> str:
    return json_line(STORY, frames=[STORY["frames"][0] | changes])  # type: ignore[index]


def test_frames_are_read_from_json_lines(tmp_path: Path) -> None:
    (found,) = read_predicate_frames(write(tmp_path / "a", json_line(STORY) + "\n"))
    assert (found.predicate, found.words, found.tags) == (3, tuple(STORY["tokens"]), tuple(STORY["frames"][0]["tags"]))  # type: ignore[index]
    assert found.texts() == (found.words,)


def test_frames_are_read_from_conll2012(tmp_path: Path) -> None:
    wants, wash = read_predicate_frames(write(tmp_path / "a", CONLL2012))
    assert wants.words == wash.words == ("John", "wants", "to", "wash", "his", "car", ".")
    assert (wants.predicate, wash.predicate) == (1, 3)
    assert wants.tags == ("B-ARG0", "B-V", "B-ARG1", "I-ARG1", "I-ARG1", "I-ARG1", "O")
    assert wash.tags == ("B-ARG0", "O", "O", "B-V", "B-ARG1", "I-ARG1", "O")
    unlabelled = [PredicateFrame(frame.words, frame.predicate, ()) for frame in (wants, wash)]
    assert read_predicate_frames(tmp_path / "a", labelled=False) == unlabelled


def test_predicates_without_roles_are_found_by_their_sense(tmp_path: Path) -> None:
    rows = "0 John NNP * - - - - * -\n1 sleeps VBZ * sleep 01 1 - * -"
    (found,) = read_predicate_frames(write(tmp_path / "a", document(rows)), labelled=False)
    assert found == PredicateFrame(("John", "sleeps"), 1, ())
    write_predicate_frames(tmp_path / "a", tmp_path / "b", [("B-ARG0", "B-V")])
    assert read_predicate_frames(tmp_path / "b") == [PredicateFrame(("John", "sleeps"), 1, ("B-ARG0", "B-V"))]


@pytest.mark.parametrize("text", [json_line(STORY), CONLL2012], ids=["json", "conll"])
def test_written_frames_are_read_back(tmp_path: Path, text: str) -> None:
    source = write(tmp_path / "a", text)
    frames = read_predicate_frames(source)
    write_predicate_frames(source, tmp_path / "b", [frame.tags for frame in frames])
    assert read_predicate_frames(tmp_path / "b") == frames
    other = [
        ("O",) * frame.predicate + ("B-V",) + ("O",) * (len(frame.words) - frame.predicate - 1) for frame in frames
    ]
    write_predicate_frames(source, tmp_path / "c", other)
    assert [frame.tags for frame in read_predicate_frames(tmp_path / "c")] == other


def test_documents_are_read_from_json_lines(tmp_path: Path) -> None:
    (found,) = read_coreference(write(tmp_path / "a", json_line(DRACULA)))
    assert found == CorefDocument(
        "345_dracula",
        "",
        tuple(map(tuple, DRACULA["sentences"])),
        (("",) * 6, ("",) * 4),
        (((2, 3), (6, 6)), ((8, 8),)),
    )
    assert found.texts() == found.sentences


def test_documents_are_read_from_conll2012(tmp_path: Path) -> None:
    (found,) = read_coreference(write(tmp_path / "a", CONLL2012))
    assert (found.name, found.genre) == ("bc/tale/00/tale_0001_0", "bc")
    assert found.clusters == (((0, 0), (4, 4)), ((4, 5), (7, 7)))
    assert found.speakers == (("Speaker#1",) * 7, ("",) * 2)


@pytest.mark.parametrize("text", [json_line(DRACULA), CONLL2012], ids=["json", "conll"])
def test_written_clusters_are_read_back(tmp_path: Path, text: str) -> None:
    source = write(tmp_path / "a", text)
    (found,) = read_coreference(source)
    for clusters in [found.clusters, (((0, 3), (1, 2), (3, 3)), ((0, 4), (2, 4)))]:
        write_coreference(source, tmp_path / "b", [clusters])
        (back,) = read_coreference(tmp_path / "b")
        assert back.clusters == clusters and back.sentences == found.sentences


BROKEN_FRAMES = {
    "no JSON": ('{"tokens": ["a"\n', "line 1"),
    "another format": ("a\tO\n", "line 1", "neither a JSON object nor #begin document"),
    "no tokens": ('{"frames": []}\n', "line 1", "tokens"),
    "an empty word": (json_line(STORY) + '{"tokens": ["a", ""]}\n', "line 2", "no tokens, or an empty one"),
    "a number for a word": ('{"tokens": ["a", 1]}\n', "line 1", "tokens.1"),
    "a predicate out of range": (frame(pred=7), "line 1", "predicate 7", "7 words"),
    "too few tags": (frame(tags=["O"]), "line 1", "1 tags for 7 words"),
    "no tags": (frame(tags=[]), "line 1", "0 tags for 7 words"),
    "I after another role": (frame(tags=["B-A"] + ["I-B"] * 6), "line 1", "I-B does not follow B-B"),
    "a tag that is none": (frame(tags=["X"] * 7), "line 1", "'X' is no tag of a role"),
    "no frames at all": (json_line(STORY, frames=[]), "holds no example"),
    "a row too short": ("#begin document (a); part 000\na 0 0 John\n", "line 2", "4 columns"),
    "rows of unequal width": (CONLL2012.replace("* (V*) * -", "* (V*) -"), "line 3", "its sentence begins with"),
    "a role inside a role": (CONLL2012.replace("* * (V*) -", "* (A*) (V*) -"), "line 5", "none inside another"),
    "a role that does not begin": (CONLL2012.replace("(ARG1* * -", "* * -"), "line 7", "does not begin"),
    "a role that does not end": (CONLL2012.replace("* *) *) 1)", "* * *) 1)"), "line 8", "inside the role ARG1"),
    "a document that does not end": (CONLL2012.replace("#end document", ""), "line 1", "cut short"),
    "a document inside another": (CONLL2012.replace("#end", "#begin"), "line 13", "inside that of line 1"),
}
BROKEN_DOCUMENTS = {
    "no JSON": ("{\n", "line 1"),
    "another format": ("[]\n", "line 1", "neither a JSON object nor #begin document"),
    "no clusters": ('{"doc": "a", "sentences": [["a"]]}\n', "line 1", 'has no "clusters"'),
    "no cluster in any document": (json_line(DRACULA, clusters=[]), "no cluster in any document"),
    "a span out of range": (json_line(DRACULA, clusters=[[[8, 10]]]), "line 1", "[8, 10]", "0 to 9"),
    "a span backwards": (json_line(DRACULA) + json_line(DRACULA, clusters=[[[3, 2]]]), "line 2", "[3, 2]"),
    "a span of three": (json_line(DRACULA, clusters=[[[1, 2, 3]]]), "line 1", "[1, 2, 3]"),
    "an empty cluster": (json_line(DRACULA, clusters=[[]]), "line 1", "a cluster without spans"),
    "an empty sentence": (json_line(DRACULA, sentences=[["a"], []]), "line 1", "an empty sentence"),
    "speakers of other words": (json_line(DRACULA, speakers=[["a"]]), "line 1", "speakers"),
    "a mention that does not end": (CONLL2012.replace(" 1)", " -"), "line 6", "cluster 1 that does not end"),
    "a mention that does not begin": (CONLL2012.replace("(1|(0)", "(0)"), "line 7", "cluster 1 that does not begin"),
    "no bracket": (CONLL2012.replace(" 1)", " 1"), "line 7", "'1' in its last column"),
    "a word before the document": (f"a 0\n{CONLL2012}", "line 1", "neither a JSON object"),
}


@pytest.mark.parametrize("kind", BROKEN_FRAMES)
def test_broken_frames_are_refused_with_file_and_line(tmp_path: Path, kind: str) -> None:
    text, *parts = BROKEN_FRAMES[kind]
    refused(read_predicate_frames, tmp_path / "a", text, *parts)


@pytest.mark.parametrize("kind", BROKEN_DOCUMENTS)
def test_broken_documents_are_refused_with_file_and_line(tmp_path: Path, kind: str) -> None:
    text, *parts = BROKEN_DOCUMENTS[kind]
    refused(read_coreference, tmp_path / "a", text, *parts)


def test_labels_are_not_read_for_prediction(tmp_path: Path) -> None:
    path = write(tmp_path / "a", json_line(DRACULA, clusters=[[[3, 99]]]))
    assert read_coreference(path, labelled=False)[0].clusters == ()
    refused(partial(read_predicate_frames, labelled=False), tmp_path / "b", frame(pred=-1), "predicate -1")


@needs_shared
def test_the_counts_of_real_roles_are_right() -> None:
    frames = read_predicate_frames(DATA / "srl" / "dev.jsonl.xz")
    arguments = sum(tag.startswith("B-") and tag != "B-V" for frame in frames for tag in frame.tags)
    assert (len(frames), arguments) == (4963, 9583)
    assert all(frame.tags[frame.predicate] == "B-V" for frame in frames)


@needs_shared
@pytest.mark.parametrize(("name", "size"), [("ontogum", (29, 1534, 817, 3698)), ("litbank", (10, 776, 796, 2987))])
def test_the_counts_of_real_documents_are_right(name: str, size: tuple[int, ...]) -> None:
    documents = read_coreference(DATA / "coref" / f"{name}.dev.jsonl.xz")
    clusters = [cluster for document in documents for cluster in document.clusters]
    sentences = sum(len(document.sentences) for document in documents)
    assert (len(documents), sentences, len(clusters), sum(map(len, clusters))) == size
