"""Muon's matrices: how near they come to orthogonal ones, in float32 and bfloat16, and how they are put together."""

import pytest
import torch

from pipeline.train.step.muon import muon_updates, number_of_blocks, orthogonalized


@pytest.mark.parametrize("shape", [(3, 16, 64), (1, 64, 16), (1, 24, 24), (2, 1, 5)])
def test_orthogonalized_matrices_keep_their_singular_vectors_and_have_values_near_one(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    u, singular, vh = torch.linalg.svd(matrices, full_matrices=False)
    found = u.mT @ orthogonalized(matrices) @ vh.mT
    values = found.diagonal(dim1=-2, dim2=-1)
    large = values[singular > 0.011 * torch.linalg.matrix_norm(matrices)[..., None]]
    assert large.min() > 0.72 and values.max() < 1.28 and len(large) > 0.9 * values.numel()
    torch.testing.assert_close(found, torch.diag_embed(values), rtol=0, atol=1e-9)
    torch.testing.assert_close(orthogonalized(matrices.float()), orthogonalized(matrices).float(), rtol=0, atol=1e-3)
    assert torch.equal(orthogonalized(torch.zeros(shape)), torch.zeros(shape))


def test_matrices_are_made_orthogonal_in_bfloat16_nearly_as_in_float32() -> None:
    """Among them matrices whose small singular values are lost in bfloat16, which must not grow."""
    random = torch.Generator().manual_seed(1)
    u, _, vh = torch.linalg.svd(torch.randn(4, 64, 256, generator=random), full_matrices=False)
    spike = torch.cat([torch.ones(1), torch.full((63,), 0.02)])
    singular = torch.stack([torch.ones(64), torch.logspace(0, -2, 64), torch.logspace(0, -6, 64), spike])
    matrices = u * singular.unsqueeze(1) @ vh
    exact = orthogonalized(matrices)
    with torch.autocast("cpu", torch.bfloat16):
        found = orthogonalized(matrices)
    assert found.dtype == torch.bfloat16
    errors = torch.linalg.matrix_norm(found.float() - exact) / torch.linalg.matrix_norm(exact)
    assert 1e-4 < errors.max() < 0.2 and errors[:3].max() < 0.1
    assert torch.linalg.svdvals(found.float()).max() < 2


def test_muon_updates_matrices_of_one_shape_together_as_it_does_one_by_one() -> None:
    random = torch.Generator().manual_seed(1)
    momenta = [torch.randn(*shape, generator=random) for shape in ((2, 4, 8, 6), (8, 6), (2, 6, 8), (3, 8, 6), (8, 8))]
    for momentum, update in zip(momenta, muon_updates(momenta, momenta, 0.0), strict=True):
        assert update.shape == momentum.shape
        for one, other in zip(
            momentum.reshape(-1, *momentum.shape[-2:]), update.reshape(-1, *momentum.shape[-2:]), strict=True
        ):
            torch.testing.assert_close(other, muon_updates([one], [one], 0.0)[0])


@pytest.mark.parametrize(("rows", "number"), [(2048, 32), (256, 4), (64, 1), (12, 1), (96, 2), (100, 2), (67, 67)])
def test_highway_layers_divide_into_few_equal_blocks(rows: int, number: int) -> None:
    assert number_of_blocks(rows, 64) == number
