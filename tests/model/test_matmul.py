"""Matrix products by oneDNN and by torch are right, for every kind of operand in the model."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from pipeline.model.backend import matmul as backend
from pipeline.model.backend.matmul import (
    add_packed_matmul_,
    linear,
    matmul,
    packed,
    packed_matmul,
)
from pipeline.model.lstmp import input_gates, run_bias

SHAPES = [(1, 1, 1), (3, 16, 64), (18, 256, 7), (5, 512, 2048), (640, 64, 48)]


@pytest.fixture(params=[True, False], ids=["oneDNN", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and not backend._ONEDNN:
        pytest.fail("this torch has no oneDNN: the fast path goes untested")
    monkeypatch.setattr(backend, "_ONEDNN", request.param)


def operands(*shape: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    *batch, m, k, n = shape
    generator = torch.Generator().manual_seed(1)
    left = torch.randn(*batch, m, k, generator=generator, dtype=dtype)
    return left, torch.randn(*batch, k, n, generator=generator, dtype=dtype)


def assert_right(result: Tensor, left: Tensor, right: Tensor, tolerance: float = 4e-7) -> None:
    """Check float32 results up to a few roundings of the sum of magnitudes."""
    exact, magnitude = left.double() @ right.double(), left.double().abs() @ right.double().abs()
    assert ((result.double() - exact).abs() <= tolerance * magnitude).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matmul_is_accurate_to_float32(engine: None, shape: tuple[int, int, int]) -> None:
    left, right = operands(*shape)
    assert_right(matmul(left, right), left, right)
    bias = torch.ones(shape[2])
    torch.testing.assert_close(matmul(left, right, bias), matmul(left, right) + bias)


@pytest.mark.parametrize("shape", SHAPES)
def test_views_give_the_same_results_as_their_copies(engine: None, shape: tuple[int, int, int]) -> None:
    left, right = operands(*shape)
    assert_right(matmul(left.t().contiguous().t(), right.t().contiguous().t()), left, right)
    wide = torch.cat([left, left, left], 1)[:, left.shape[1] : 2 * left.shape[1]]
    assert_right(matmul(wide, right), left, right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_packed_matrices_give_the_same_results(
    engine: None, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    # Without bf16 instructions oneDNN is slow but equally accurate; without AVX-512 it packs nothing in bf16.
    monkeypatch.setattr(backend, "HAS_BF16", backend._AVX512)
    monkeypatch.setattr(backend, "_LEAST_PACKED", 1)
    left, right = operands(2, *shape, dtype=dtype)
    tolerance = 4e-7 if dtype == torch.float32 else 2e-2
    out, total = packed_matmul(left, packed(right)), torch.zeros(2, shape[0], shape[2])
    add_packed_matmul_(total, left, packed(right.transpose(1, 2).contiguous().transpose(1, 2)))
    for d in range(2):
        assert_right(out[d], left[d], right[d], tolerance)
        assert_right(total[d], left[d], right[d], tolerance)


def test_a_packed_matmul_can_be_added_to_a_sum(engine: None) -> None:
    left, right = operands(2, 4, 8, 8)
    total = torch.ones(2, 4, 8)
    add_packed_matmul_(total, left, right)
    torch.testing.assert_close(total, 1 + left @ right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_bias_of_gates_is_added_in_its_own_dtype(engine: None, dtype: torch.dtype) -> None:
    left, right = operands(2, 6, 8, 16, dtype=dtype)
    bias = torch.randn(2, 16)
    found = input_gates(left.view(2, 3, 2, 8), right, bias, torch.float32)
    assert found.dtype == torch.float32
    expected = left.float() @ right.float() + run_bias(bias, torch.float32).unsqueeze(1)
    torch.testing.assert_close(found.flatten(1, 2), expected, atol=1e-5 if dtype == torch.float32 else 0.03, rtol=0)


def test_empty_operands_give_empty_or_zero_results(engine: None) -> None:
    assert matmul(torch.empty(0, 3), torch.ones(3, 2)).shape == (0, 2)
    assert torch.equal(matmul(torch.empty(2, 0), torch.ones(0, 2)), torch.zeros(2, 2))


def test_results_have_the_dtype_of_the_operands(engine: None) -> None:
    for dtype, tolerance in ((torch.float64, 1e-15), (torch.bfloat16, 2e-2)):
        left, right = operands(4, 8, 8, dtype=dtype)
        assert matmul(left, right).dtype == dtype
        assert_right(matmul(left, right), left, right, tolerance)


def test_rows_are_the_same_in_any_batch(engine: None) -> None:
    left, right = operands(1, 64, 4096, 512)
    (kept,) = packed(right)
    whole = matmul(left[0], kept)
    for rows in (4, 8, 12, 32, 60):
        assert torch.equal(matmul(left[0, :rows], kept), whole[:rows])


def test_gradients_of_a_linear_layer_equal_those_of_autograd(engine: None) -> None:
    x, weight = operands(3, 5, 4, dtype=torch.float64)
    arguments = [t.requires_grad_() for t in (x, weight.t().contiguous(), torch.ones(4, dtype=torch.float64))]
    assert gradcheck(linear, arguments)
    single = [t.detach().float().requires_grad_() for t in arguments]
    for function in (linear, torch.nn.functional.linear):
        function(*single).square().sum().backward()
        gradients = [t.grad.clone() for t in single if t.grad is not None]
        if function is linear:
            ours = gradients
        for t in single:
            t.grad = None
    for one, other in zip(ours, gradients, strict=True):
        torch.testing.assert_close(one, other)
