"""The scikit-learn transformer: its vectors are those of `Elmo`, and scikit-learn's tools work with it."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

from pipeline import Elmo
from pipeline.config.schema import ConfigError
from pipeline.integrations.sklearn import ElmoTransformer
from pipeline.model.formats.pretrained import save_pretrained
from tests.model import tiny

TEXTS = ["The bank lends .", "The river", "", "A bank", "漢字 flood .", "river"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    save_pretrained(folder, tiny.bilm(tiny.config()).core())
    return str(folder)


def layers_of(model: str) -> list[np.ndarray]:
    """(layers, words, width) of each text, one text at a time."""
    return [Elmo.from_pretrained(model).embed([text.split()])[0].numpy() for text in TEXTS]


@pytest.mark.parametrize("layers", ["average", "top", "1", "all"])
def test_a_sentence_is_the_mean_of_its_words(model: str, layers: str) -> None:
    found = ElmoTransformer(model, layers=layers, batch_size=4).fit_transform(TEXTS)
    for row, of_text in zip(found, layers_of(model), strict=True):
        means = of_text.mean(1) if of_text.shape[1] else np.zeros_like(of_text[:, 0:1].sum(1))
        wanted = {"average": means.mean(0), "top": means[-1], "1": means[1], "all": means.ravel()}[layers]
        assert np.allclose(row, wanted, atol=1e-6)
    assert found.dtype == np.float32


def test_strings_and_lists_of_words_are_the_same(model: str) -> None:
    transformer = ElmoTransformer(model)
    lists = transformer.transform([text.split() for text in TEXTS])
    assert np.array_equal(transformer.transform(iter(TEXTS)), lists)
    assert transformer.transform([]).shape == (0, lists.shape[1])


def test_it_works_in_a_grid_search_and_a_pickle(model: str, tmp_path: Path) -> None:
    topics = [0, 1, 0, 0, 1, 1]
    pipeline = make_pipeline(ElmoTransformer(model), LogisticRegression(), memory=str(tmp_path))
    grid = {"elmotransformer__layers": ["top", "all"]}
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(TEXTS, topics)
    again = pickle.loads(pickle.dumps(search))
    assert again.predict(TEXTS).tolist() == search.predict(TEXTS).tolist()
    assert len(pickle.dumps(ElmoTransformer(model).fit(TEXTS))) < 1000  # the name of the model, not the model


def test_parameters_that_change_take_effect(model: str) -> None:
    transformer = ElmoTransformer(model).fit(TEXTS)
    copy = clone(transformer.set_params(layers="all"))
    assert copy.get_params() == transformer.get_params() == {
        "model": model, "layers": "all", "device": "cpu", "batch_size": 256
    }  # fmt: skip
    assert np.array_equal(transformer.transform(TEXTS), copy.transform(TEXTS))
    assert len(copy.get_feature_names_out()) == 3 * 10 and copy.get_feature_names_out()[0] == "elmotransformer0"


@pytest.mark.parametrize(
    "check",
    ["check_parameters_default_constructible", "check_no_attributes_set_in_init", "check_get_params_invariance",
     "check_set_params", "check_estimator_repr", "check_valid_tag_types", "check_estimator_cloneable"],
)  # fmt: skip
def test_it_passes_the_checks_of_scikit_learn_that_need_no_numbers(model: str, check: str) -> None:
    getattr(estimator_checks, check)("ElmoTransformer", ElmoTransformer(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model= is missing"),
        ({"model": "nowhere"}, "nowhere"),
        ({"layers": "mix"}, "layers=mix is for `elmo embed`"),
        ({"layers": "7"}, "layer 7 must be one of all, top, average"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"device": "gpu"}, "device=gpu cannot be used"),
        ({"device": "cuda:99"}, "device=cuda:99 cannot be used"),
    ],
)
def test_wrong_options_are_one_sentence(model: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ElmoTransformer(**{"model": model, **options}).fit(TEXTS)


@pytest.mark.parametrize("cell", [None, float("nan"), ["a", None], b"bytes"])
def test_an_empty_cell_is_named_by_its_row(model: str, cell: object) -> None:
    with pytest.raises(ConfigError, match=r"row 1 of X is .* not a sentence"):
        ElmoTransformer(model).transform(["The bank", cell])


def test_a_path_and_a_number_are_taken_as_their_text(model: str) -> None:
    found = ElmoTransformer(Path(model), layers=1).transform(TEXTS)
    np.testing.assert_array_equal(found, ElmoTransformer(model, layers="1").transform(TEXTS))


def test_one_string_is_no_list_of_sentences(model: str) -> None:
    with pytest.raises(ConfigError, match="X is one string"):
        ElmoTransformer(model).transform("The bank")


@pytest.mark.parametrize("make", [lambda: np.array(TEXTS)[:, None], lambda: pandas.DataFrame({"text": TEXTS})])
def test_a_table_is_no_list_of_sentences(model: str, make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="X is a table"):
        ElmoTransformer(model).transform(make())
    column = pandas.DataFrame({"text": TEXTS})["text"]
    np.testing.assert_array_equal(ElmoTransformer(model).transform(column), ElmoTransformer(model).transform(TEXTS))
