"""bilm-tf's own test model, sentences and embeddings: the numbers that make this an ELMo."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config.schema import ModelConfig
from pipeline.model.bilm import BiLM, States
from pipeline.model.language_model import LanguageModel
from tests.model import tiny

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "bilm-tf"
pytestmark = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason=f"the reference's test model is not at {FIXTURES}; see elmo-numerics, Conformance"
)


def config_of(options: dict) -> ModelConfig:
    lstm, cnn = options["lstm"], options["char_cnn"]
    return ModelConfig(
        character_dim=cnn["embedding"]["dim"],
        filters=cnn["filters"],
        activation=cnn["activation"],
        max_characters=cnn["max_characters_per_token"],
        num_highway=cnn["n_highway"],
        lstm_dim=lstm["dim"],
        projection_dim=lstm["projection_dim"],
        num_layers=lstm["n_layers"],
        cell_clip=lstm["cell_clip"],
        proj_clip=lstm["proj_clip"],
        skip_connections=lstm["use_skip_connections"],
    )


@pytest.fixture(scope="module")
def reference() -> LanguageModel:
    """Weights placed by hand, in float32: transposed where torch multiplies from the other side."""
    h5py = pytest.importorskip("h5py")
    model = config_of(json.loads((FIXTURES / "options.json").read_text()))
    bilm = LanguageModel(model, vocab_size=4)
    with h5py.File(FIXTURES / "lm_weights.hdf5") as file, torch.no_grad():

        def read(name: str) -> Tensor:
            return torch.from_numpy(file[name][...])

        values = {"encoder.char_embed": read("char_embed")}
        for k in range(len(model.filters)):
            values[f"encoder.convolutions.{k}.weight"] = read(f"CNN/W_cnn_{k}")[0].permute(2, 1, 0)
            values[f"encoder.convolutions.{k}.bias"] = read(f"CNN/b_cnn_{k}")
        for k in range(model.num_highway):
            for part in ("carry", "transform"):
                values[f"encoder.highways.{k}.{part}.weight"] = read(f"CNN_high_{k}/W_{part}").T
                values[f"encoder.highways.{k}.{part}.bias"] = read(f"CNN_high_{k}/b_{part}")
        values["encoder.projection.weight"] = read("CNN_proj/W_proj").T
        values["encoder.projection.bias"] = read("CNN_proj/b_proj")
        for k in range(model.num_layers):
            cells = [f"RNN_{d}/RNN/MultiRNNCell/Cell{k}/LSTMCell" for d in range(2)]
            kernel = torch.stack([read(f"{cell}/W_0") for cell in cells])
            values[f"layers.{k}.weight_input"] = kernel[:, : model.projection_dim]
            values[f"layers.{k}.weight_recurrent"] = kernel[:, model.projection_dim :]
            values[f"layers.{k}.bias"] = torch.stack([read(f"{cell}/B") for cell in cells])
            values[f"layers.{k}.weight_proj"] = torch.stack([read(f"{cell}/W_P_0") for cell in cells])
    missing, unexpected = bilm.load_state_dict(values, strict=False)
    assert sorted(missing) == ["softmax.bias", "softmax.weight"] and not unexpected
    return bilm


def embed(bilm: LanguageModel, sentence: str, states: States) -> tuple[np.ndarray, States]:
    """(layers, words, 2 P) of a sentence, its bounds left out, and the states after it."""
    words = ["<S>", *sentence.split(), "</S>"]
    both = [[[word] for word in words], [[word] for word in reversed(words)]]
    with torch.no_grad():
        layers, states = bilm(tiny.window(both, bilm.config.max_characters), states)
    forward_backward = [torch.cat([layer[0, 1:-1, 0], layer[1, :, 0].flip(0)[1:-1]], 1) for layer in layers]
    return torch.stack(forward_backward).numpy(), states


def lists() -> list[list[str]]:
    return json.loads((FIXTURES / "lm_embeddings_sentences.json").read_text())


def test_the_top_layer_is_the_one_that_bilm_tf_computed(reference: BiLM) -> None:
    """As its own test does: row k is list k, states carried from sentence to sentence."""
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
def test_every_layer_is_the_one_computed_independently_in_float64(reference: BiLM, stateful: bool) -> None:
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


def test_the_layers_hang_on_every_trap(reference: BiLM) -> None:
    """The fixture tells right from wrong: each known mistake moves its numbers (elmo-numerics, Conformance)."""
    sentence = lists()[0][0]
    right, _ = embed(reference, sentence, reference.initial_states(1))
    state = reference.state_dict()

    def error_with(**changes: object) -> float:
        wrong = LanguageModel(ModelConfig(**{**vars(reference.config), **changes}), 4)
        wrong.load_state_dict(state)
        return float(np.abs(embed(wrong, sentence, wrong.initial_states(1))[0] - right).max())

    assert error_with() == 0
    assert error_with(skip_connections=True) > 0.1
    assert error_with(cell_clip=None, proj_clip=None) > 1e-4
    assert error_with(activation="tanh") > 0.01
