"""The spaCy component: its vectors are those of `Elmo`, and spaCy's tools work with it."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import spacy
from spacy.language import Language
from spacy.tokens import Doc

from pipeline import Elmo
from pipeline.config.schema import ConfigError
from pipeline.integrations import spacy as integration  # registers the factory, as the entry point does
from pipeline.model.formats.pretrained import save_pretrained
from tests.model import tiny
from tests.pages import ROOT

TEXT = "The bank lends.  He sat\n on the bank of the river."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    save_pretrained(folder, tiny.bilm(tiny.config()).core())
    return str(folder)


def pipeline_of(model: str, sentences: bool = True, **config: object) -> Language:
    nlp = spacy.blank("en")
    if sentences:
        nlp.add_pipe("sentencizer")
    nlp.add_pipe("elmo", config={"model": model, **config})
    return nlp


def test_each_sentence_is_encoded_on_its_own(model: str) -> None:
    doc = pipeline_of(model)(TEXT)
    elmo = Elmo.from_pretrained(model)
    for sentence in doc.sents:
        words = [token for token in sentence if not token.is_space]
        layers = elmo.embed([[token.text for token in words]])[0].numpy()
        assert np.allclose([token._.elmo for token in words], layers.mean(0), atol=1e-6)
    spaces = [token.i for token in doc if token.is_space]
    assert len(spaces) == 2 and not doc.tensor[spaces].any()


def test_without_sentence_bounds_a_document_is_one_sentence(model: str) -> None:
    doc = pipeline_of(model, sentences=False, layers="all")(TEXT)
    words = [token for token in doc if not token.is_space]
    layers = Elmo.from_pretrained(model).embed([[token.text for token in words]])[0].numpy()
    assert np.allclose(doc.tensor[[token.i for token in words]], np.concatenate(list(layers), -1), atol=1e-6)


def test_documents_in_a_batch_have_the_vectors_they_have_alone(model: str) -> None:
    nlp = pipeline_of(model)
    texts = [TEXT, "", "river", "The bank failed.", " "] * 3
    for doc in nlp.pipe(texts, batch_size=4):
        assert doc.tensor.shape == (len(doc), 10)
        assert np.array_equal(doc.tensor, nlp(doc.text).tensor)


def test_vectors_survive_the_bytes_of_a_document(model: str) -> None:
    doc = pipeline_of(model)(TEXT)
    again = Doc(spacy.blank("en").vocab).from_bytes(doc.to_bytes())
    assert np.array_equal(again[1]._.elmo, doc[1]._.elmo)
    assert np.allclose(again.vector, doc.tensor.mean(0))


@pytest.mark.parametrize("save_model", [True, False])
def test_a_saved_pipeline_gives_the_same_vectors(model: str, save_model: bool, tmp_path: Path) -> None:
    nlp = pipeline_of(model, layers="top", save_model=save_model)
    nlp.to_disk(tmp_path / "nlp")
    assert (tmp_path / "nlp/elmo/model/config.json").exists() == save_model
    again = spacy.load(tmp_path / "nlp")
    assert np.array_equal(again(TEXT).tensor, nlp(TEXT).tensor)


def test_a_saved_pipeline_needs_the_first_model_no_more(model: str, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    Path(model).rename(moved)
    nlp = pipeline_of(str(moved))
    wanted = nlp(TEXT).tensor
    nlp.to_disk(tmp_path / "nlp")
    moved.rename(model)
    again = spacy.load(tmp_path / "nlp")
    again.to_disk(tmp_path / "nlp")  # over itself
    assert np.array_equal(spacy.load(tmp_path / "nlp")(TEXT).tensor, wanted)


@pytest.mark.parametrize(
    ("config", "message"),
    [({"model": ""}, "model= is missing"), ({"layers": "9"}, "layer 9 must be one of all, top, average")],
)
def test_wrong_options_are_one_sentence(model: str, config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline_of(**{"model": model, **config})("The bank")


def test_spacy_finds_the_component_by_the_entry_point(model: str, tmp_path: Path) -> None:
    """In a process that has imported nothing of this project, with the entry points that an installation has."""
    project = (ROOT / "pyproject.toml").read_text()
    (points,) = re.findall(r'^\[project.entry-points.spacy_factories\]\n((?:\w+ = ".*"\n)+)', project, re.MULTILINE)
    installed = tmp_path / "elmo_pipeline_test-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: elmo-pipeline-test\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[spacy_factories]\n" + points.replace('"', ""))
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]\n"
        "import spacy; nlp = spacy.blank('en'); assert 'pipeline.model.bilm' not in sys.modules\n"
        f"nlp.add_pipe('elmo', config={{'model': {model!r}}}); print(nlp('The bank').tensor.shape)"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.stdout.split("\n")[-2:] == ["(2, 10)", ""], ran.stderr
    assert integration.make_elmo is not None
