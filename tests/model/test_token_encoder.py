"""Maxima over only the windows that matter, computed in both ways, against the convolution of all positions."""

import copy
from typing import Any, Literal
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.characters import PAD, character_rows
from pipeline.model import token_encoder
from pipeline.model.backend.char_cnn import convolve_by_matmul, convolve_by_tables
from pipeline.model.token_encoder import TokenEncoder
from tests.model import plain_torch
from tests.model.numpy_bilm import spelling

PAPER_FILTERS = [(1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024)]
FEW_FILTERS = [(1, 3), (2, 4), (3, 2), (7, 5)]


def encoder_of(
    filters: list[tuple[int, int]], activation: Literal["relu", "tanh"] = "relu", **sizes: Any
) -> TokenEncoder:
    """Return an encoder with random biases and a pad row that wins many maxima, which reveals a missing pad window."""
    torch.manual_seed(0)
    values: dict[str, Any] = {"character_dim": 4, "num_highway": 1, "proj_dim": 6} | sizes
    encoder = TokenEncoder(filters=filters, activation=activation, **values)
    with torch.no_grad():
        for convolution in encoder.convolutions:
            convolution.weight.normal_()
            convolution.bias.normal_()
    return encoder


def rows_of(words: list[str], max_characters: int = 50) -> Tensor:
    return torch.tensor([spelling(word, max_characters) for word in words], dtype=torch.int16)


EDGE_WORDS = ["<S>", "</S>", "", "a", "😀", *("x" * n for n in range(2, 53)), "é" * 24, "é" * 25, "a" + "é" * 24]


def assert_equal_to_full(encoder: TokenEncoder, rows: Tensor) -> None:
    """Compare convolutions by tables, as on a CPU, and by matrix products, as on a GPU, with full ones."""
    values = copy.deepcopy(encoder.state_dict())
    assert_one_way_equal_to_full(encoder, rows)
    with mock.patch.object(token_encoder, "convolve_by_tables", convolve_by_matmul):
        encoder.float().load_state_dict(values)
        assert_one_way_equal_to_full(encoder, rows)


def assert_one_way_equal_to_full(encoder: TokenEncoder, rows: Tensor) -> None:
    """Compare one kind of convolution with the full one.

    With whole numbers as weights no sum rounds, and the values are bitwise equal. With others the gradients agree.
    """
    parameters = [encoder.char_embed, *encoder.convolutions.parameters()]
    random = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.mul_(4).round_()
        assert torch.equal(encoder._convolve(rows), plain_torch.convolve(encoder, rows))
        for parameter, value in zip(parameters, random, strict=True):
            parameter.copy_(value)
    encoder.double()
    ours, theirs = encoder._convolve(rows), plain_torch.convolve(encoder, rows)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    our_gradients = torch.autograd.grad((ours * weights).sum(), parameters)
    their_gradients = torch.autograd.grad((theirs * weights).sum(), parameters)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(our_gradients, their_gradients, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("filters", [PAPER_FILTERS, FEW_FILTERS, [(1, 2)], [(50, 3)], [(49, 3), (2, 1)]])
def test_words_of_every_length_have_the_result_of_the_full_convolution(
    filters: list[tuple[int, int]], activation: Literal["relu", "tanh"]
) -> None:
    rows = rows_of(EDGE_WORDS)
    assert_equal_to_full(encoder_of(filters, activation, character_dim=16), rows)
    assert_equal_to_full(encoder_of(filters, activation), rows.flip(0))


def test_rows_of_only_pads_have_the_result_of_the_full_convolution() -> None:
    encoder = encoder_of(FEW_FILTERS)
    pads = torch.full((3, 50), PAD, dtype=torch.int16)
    assert_equal_to_full(encoder, pads)
    assert_equal_to_full(encoder_of(FEW_FILTERS), torch.cat([pads, rows_of(["word", "x" * 60])]))


@settings(deadline=None, max_examples=60)
@given(
    words=st.lists(st.text(st.characters(codec="utf-8"), max_size=60) | st.sampled_from(["<S>", "</S>"]), min_size=1),
    widths=st.lists(st.integers(1, 8), min_size=1, max_size=4),
    max_characters=st.sampled_from([8, 9, 14, 50]),
)
def test_any_words_and_filters_have_the_result_of_the_full_convolution(
    words: list[str], widths: list[int], max_characters: int
) -> None:
    assert_equal_to_full(encoder_of([(width, 3) for width in widths]), rows_of(words, max_characters))


def test_only_windows_that_can_hold_the_maximum_are_computed() -> None:
    """The work for short words does not grow with the row's length. There are few shapes: each is prepared once."""
    encoder, made = encoder_of(FEW_FILTERS), []

    def peaks(words: Tensor, groups: list[tuple[int, int]], *weights: Any) -> Tensor:
        made.append(groups)
        return convolve_by_tables(words, groups, *weights)

    with mock.patch.object(token_encoder, "convolve_by_tables", peaks):
        encoder._convolve(rows_of(["a", "of", "the", "x" * 7, "x" * 11, "x" * 20]))
        encoder._convolve(rows_of(["x" * 42, "x" * 43]))
    assert made == [[(3, 7), (1, 10), (1, 14), (1, 25)], [(0, 7), (0, 10), (0, 14), (2, 50)]]


@pytest.mark.parametrize("num_highway", [0, 1, 2])
@pytest.mark.parametrize("proj_dim", [6, 14])
def test_each_word_is_encoded_the_same_alone_and_in_a_batch(num_highway: int, proj_dim: int) -> None:
    encoder = encoder_of(FEW_FILTERS, num_highway=num_highway, proj_dim=proj_dim)
    assert (encoder.projection is None) == (proj_dim == 14)
    rows = rows_of(["seventeen letters", "a", "x" * 48, "the", "</S>", "the"])
    together = encoder(rows)
    apart = torch.cat([encoder(row[None]) for row in rows])
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together, plain_torch.encode(encoder, rows), atol=1e-6, rtol=1e-5)
    assert torch.equal(together[3], together[5])


def test_an_empty_batch_of_words_gives_an_empty_batch_of_vectors() -> None:
    assert encoder_of(FEW_FILTERS)(torch.empty((0, 50), dtype=torch.int16)).shape == (0, 6)


def test_gradients_of_an_unused_character_are_zero_and_those_of_the_pad_are_not() -> None:
    encoder = encoder_of(FEW_FILTERS)
    encoder(rows_of(["abc"])).sum().backward()
    gradient = encoder.char_embed.grad
    assert gradient is not None and (gradient[ord("z")] == 0).all() and (gradient[PAD] != 0).any()


@settings(deadline=None, max_examples=100)
@given(
    words=st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=60), min_size=1, max_size=8),
    max_characters=st.integers(4, 60),
)
def test_words_have_the_character_ids_of_the_reference(words: list[str], max_characters: int) -> None:
    spelled = [b"", b"", *(word.encode() for word in words)]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in spelled])])
    utf8 = np.frombuffer(b"".join(spelled), dtype=np.uint8)
    order = np.random.default_rng(0).permutation(len(spelled))
    rows = character_rows(utf8, offsets, order, max_characters)
    names = ["<S>", "</S>", *words]
    expected = [spelling(names[k], max_characters) for k in order]
    if any(word in ("<S>", "</S>") for word in words):  # spelled like a bound, but not id 0 or 1
        return
    assert rows.tolist() == expected
