"""Muon: momentum, made orthogonal. Each matrix moves by about the same length in all its directions.

Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon). Length of the update: Liu et al. 2025
(arXiv:2502.16982), so that Adam's learning rate fits. Coefficients: Polar Express (Amsel et al. 2025,
arXiv:2505.16932).
"""

import math

import torch
from torch import Tensor

_COEFFICIENTS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
_SAFETY = 1.01  # an estimate of a singular value above 1 must not diverge
HIGHWAY_ROWS = 64  # of a block; the cost of a highway layer grows with them
_ADAMS_RMS = 0.2  # root mean square of Adam's updates in units of the learning rate (Liu et al. 2025, section 2.2)


def orthogonalized(matrices: Tensor, length: float = 1.0) -> Tensor:
    """Return the matrices (..., M, N) with their singular values near `length`; those under a thousandth stay smaller.

    Newton-Schulz steps are polynomials of the Gram matrix, so the smaller side alone is multiplied in each step: for an
    LSTM of 1024 cells and 128 outputs that is a third of the usual work.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalized(matrices.mT, length).mT
    gram = matrices @ matrices.mT
    squares = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    scale = _SAFETY**-2 / squares.clamp(min=torch.finfo(gram.dtype).tiny)
    gram.mul_(scale)
    whole = last = _polynomial(gram, *_COEFFICIENTS[0])
    for coefficients in _COEFFICIENTS[1:]:
        gram = last @ gram @ last  # symmetric, as all of these
        last = _polynomial(gram, *coefficients)
        whole = last @ whole
    return whole.mul_(scale.sqrt().mul_(length)) @ matrices


def _polynomial(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    result = (gram @ gram).mul_(c).add_(gram, alpha=b)
    result.diagonal(dim1=-2, dim2=-1).add_(a)
    return result


def blocks_of(parameter: Tensor, number: int, axis: int) -> Tensor:
    """Return the matrices that stand side by side in a parameter (..., M, N), as a view (..., number, M', N').

    axis: -1 if each matrix has all rows and N / number columns, -2 if each has M / number rows and all columns.
    """
    parts = parameter.unflatten(axis, (number, parameter.shape[axis] // number))
    return parts.transpose(-2, -3) if axis == -1 else parts


def number_of_blocks(rows: int, most: int) -> int:
    """Return into how few equal blocks of at most `most` rows a number of rows divides."""
    return next(number for number in range(-(-rows // most), rows + 1) if rows % number == 0)


def muon_updates(momenta: list[Tensor]) -> list[Tensor]:
    """Return the updates of batches of matrices (..., in, out), in units of the learning rate.

    Matrices of one shape are stacked: one batched product takes less time than many.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, momentum in enumerate(momenta):
        by_shape.setdefault(tuple(momentum.shape[-2:]), []).append(place)
    updates = list(momenta)
    for shape, places in by_shape.items():
        stacked = torch.cat([momenta[place].reshape(-1, *shape) for place in places])
        parts = orthogonalized(stacked, _ADAMS_RMS * math.sqrt(max(shape)))
        for place, part in zip(
            places, parts.split([momenta[place].shape[:-2].numel() for place in places]), strict=True
        ):
            updates[place] = part.view(momenta[place].shape)
    return updates
