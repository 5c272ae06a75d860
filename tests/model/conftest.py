"""bilm-tf's own test model, imported."""

import pytest

from pipeline.model.bilm import BiLM
from pipeline.model.formats.bilm_tf_options import read_options
from pipeline.model.formats.bilm_tf_weights import load_bilm
from tests.model.bilm_tf_fixtures import FIXTURES


@pytest.fixture(scope="module")
def reference() -> BiLM:
    return load_bilm(FIXTURES / "lm_weights.hdf5", read_options(FIXTURES / "options.json"))
