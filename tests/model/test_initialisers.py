"""Every parameter is drawn as bilm-tf draws it (elmo-numerics, Initialisers); the number of parameters is right."""

import math
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from pipeline.config.load import load
from pipeline.config.schema import ModelConfig, PretrainConfig
from pipeline.model.bilm import num_parameters
from pipeline.model.language_model import LanguageModel
from pipeline.model.lstmp import LSTMP
from pipeline.model.softmax import Softmax
from pipeline.model.token_encoder import TokenEncoder

CONFIGS = Path(__file__).parents[2] / "configs"


def check_uniform(values: Tensor, bound: float) -> None:
    """Check mean, deviation and bounds of U(-bound, bound), as precisely as the number of values allows."""
    noise = 4 / math.sqrt(values.numel())
    assert bound * (1 - 20 / values.numel()) < values.abs().max() <= bound * (1 + 1e-6)
    assert abs(values.mean().item()) < noise * bound
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=noise)


def check_normal(values: Tensor, std: float) -> None:
    """Check mean, deviation and tail of N(0, std). The share beyond two deviations differs from that of a uniform."""
    noise = 4 / math.sqrt(values.numel())
    assert abs(values.mean().item()) < noise * std
    assert values.std().item() == pytest.approx(std, rel=noise)
    assert (values.abs() > 2 * std).double().mean().item() == pytest.approx(0.0455, abs=noise * 0.21)


def check_constant(values: Tensor, value: float) -> None:
    assert (values == value).all()


@pytest.fixture(scope="module")
def original_encoder() -> TokenEncoder:
    torch.manual_seed(0)
    return encoder_of(ModelConfig())


def encoder_of(model: ModelConfig, activation: Literal["relu", "tanh"] = "relu") -> TokenEncoder:
    return TokenEncoder(
        character_dim=model.character_dim,
        filters=[(width, number) for width, number in model.filters],
        activation=activation,
        num_highway=model.num_highway,
        proj_dim=model.projection_dim,
    )


def test_character_embeddings_and_convolutions_of_the_original(original_encoder: TokenEncoder) -> None:
    check_uniform(original_encoder.char_embed, 1.0)
    assert original_encoder.char_embed.shape == (261, 16)
    for convolution, (width, number) in zip(original_encoder.convolutions, ModelConfig().filters, strict=True):
        assert isinstance(convolution, nn.Conv1d) and convolution.bias is not None
        assert convolution.weight.shape == (number, 16, width)
        check_uniform(convolution.weight, 0.05)
        check_constant(convolution.bias, 0.0)


def test_convolutions_with_tanh_are_normal_with_a_deviation_by_fan() -> None:
    torch.manual_seed(0)
    for convolution in encoder_of(ModelConfig(num_highway=0), "tanh").convolutions:
        assert isinstance(convolution, nn.Conv1d) and convolution.bias is not None
        check_normal(convolution.weight, 1 / math.sqrt(convolution.kernel_size[0] * 16))
        check_constant(convolution.bias, 0.0)


def test_highways_and_projection_of_the_original(original_encoder: TokenEncoder) -> None:
    assert len(original_encoder.highways) == 2
    for highway in original_encoder.highways:
        for linear, bias in ((highway.transform, 0.0), (highway.carry, -2.0)):
            assert isinstance(linear, nn.Linear) and linear.weight.shape == (2048, 2048)
            check_normal(linear.weight, 1 / math.sqrt(2048))
            check_constant(linear.bias, bias)
    projection = original_encoder.projection
    assert projection is not None and projection.weight.shape == (512, 2048)
    check_normal(projection.weight, 1 / math.sqrt(2048))
    check_constant(projection.bias, 0.0)


def test_an_lstm_layer_of_the_original_is_glorot_uniform_over_the_joint_kernel_of_tf() -> None:
    torch.manual_seed(0)
    layer = LSTMP(512, 4096, 512, 3.0, 3.0)
    assert layer.weight_input.shape == layer.weight_recurrent.shape == (2, 512, 16384)
    for direction in range(2):
        check_uniform(layer.weight_input[direction], math.sqrt(6 / (1024 + 16384)))
        check_uniform(layer.weight_recurrent[direction], math.sqrt(6 / (1024 + 16384)))
        check_uniform(layer.weight_proj[direction], math.sqrt(6 / (4096 + 512)))
    check_constant(layer.bias, 0.0)
    assert not torch.equal(layer.weight_input[0], layer.weight_input[1])


def test_the_softmax_is_normal_with_a_deviation_by_its_width() -> None:
    torch.manual_seed(0)
    softmax = Softmax(20_000, 512)
    check_normal(softmax.weight, 1 / math.sqrt(512))
    check_constant(softmax.bias, 0.0)


def test_these_tests_cover_every_parameter() -> None:
    kinds = {".".join(name.split(".")[-2:]) for name in _names()}
    assert kinds == {
        "encoder.char_embed", "0.weight", "0.bias", "transform.weight", "transform.bias", "carry.weight", "carry.bias",
        "projection.weight", "projection.bias", "0.weight_input", "0.weight_recurrent", "0.weight_proj",
        "softmax.weight", "softmax.bias",
    }  # fmt: skip


def _names() -> list[str]:
    with torch.device("meta"):
        bilm = LanguageModel(ModelConfig(filters=[[1, 2]], num_layers=1, num_highway=1), 4)
    return [name for name, _ in bilm.named_parameters()]


def test_the_seed_determines_every_weight() -> None:
    states: list[dict[str, Any]] = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(LanguageModel(ModelConfig(lstm_dim=8, projection_dim=4, filters=[[2, 4]]), 9).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    drawn = [name for name, value in states[0].items() if "bias" not in name]
    assert drawn and not any(torch.equal(states[0][name], states[2][name]) for name in drawn)


@pytest.mark.parametrize(
    ("file", "bilm", "softmax"),
    [
        ("small.yaml", 13_593_296, 793_471 * 129),
        ("medium.yaml", 28_027_728, 793_471 * 257),
        ("original.yaml", 93_600_848, 407_050_623),
    ],
)
def test_the_released_sizes_have_the_published_number_of_parameters(file: str, bilm: int, softmax: int) -> None:
    config = load(PretrainConfig, [str(CONFIGS / file)])
    with torch.device("meta"):
        model = LanguageModel(config.model, config.data.vocab_size)
    assert num_parameters(model) == {"bilm": bilm, "softmax": softmax}
