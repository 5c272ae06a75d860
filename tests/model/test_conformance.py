"""bilm-tf's own test model, sentences and embeddings, which an ELMo must reproduce."""

import numpy as np
import pytest

from pipeline.config.schema import ModelConfig
from pipeline.model.bilm import BiLM
from tests.model.bilm_tf_fixtures import FIXTURES, embed, lists, needs_fixtures

pytestmark = needs_fixtures


def test_the_top_layer_equals_the_one_that_bilm_tf_computed(reference: BiLM) -> None:
    """Row k is list k, and states continue from sentence to sentence, as in bilm-tf's own test."""
    import h5py

    for k, sentences in enumerate(lists()):
        states = reference.initial_states(1)
        with h5py.File(FIXTURES / f"lm_embeddings_{k}.hdf5") as file:
            for i, sentence in enumerate(sentences):
                layers, states = embed(reference, sentence, states)
                expected = np.concatenate(list(file[str(i)][...]), axis=1)
                assert layers[-1].shape == expected.shape
                assert np.allclose(layers[-1], expected, atol=1e-6, rtol=1e-5), f"sentence {i} of list {k}"


@pytest.mark.parametrize("stateful", [True, False])
def test_every_layer_equals_the_one_computed_independently_in_float64(reference: BiLM, stateful: bool) -> None:
    import h5py

    with h5py.File(FIXTURES / "all_layers_f64.hdf5") as file:
        for k, sentences in enumerate(lists()):
            states = reference.initial_states(1)
            for i, sentence in enumerate(sentences):
                layers, after = embed(reference, sentence, states)
                states = after if stateful else states
                expected = file[f"row{k}/{i}" if stateful else f"stateless/row{k}/{i}"][...]
                assert layers.shape == expected.shape
                assert np.allclose(layers, expected, atol=1e-6, rtol=1e-5), f"sentence {i} of list {k}"


def test_each_known_mistake_changes_the_layers(reference: BiLM) -> None:
    """The fixture can detect errors: each known mistake changes its numbers (elmo-numerics, Conformance)."""
    sentence = lists()[0][0]
    right, _ = embed(reference, sentence, reference.initial_states(1))
    state = reference.state_dict()

    def error_with(**changes: object) -> float:
        wrong = BiLM(ModelConfig(**{**vars(reference.config), **changes}))
        wrong.load_state_dict(state)
        return float(np.abs(embed(wrong, sentence, wrong.initial_states(1))[0] - right).max())

    assert error_with() == 0
    assert error_with(skip_connections=True) > 0.1
    assert error_with(cell_clip=None, proj_clip=None) > 1e-4
    assert error_with(activation="tanh") > 0.01
