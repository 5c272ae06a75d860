"""Muon: momentum, made orthogonal. Each matrix moves by about the same length in all its directions.

Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon). Form of the update's length: Liu et al. 2025
(arXiv:2502.16982), so that Adam's learning rate fits. Coefficients: by the method of Polar Express (Amsel et al. 2025,
arXiv:2505.16932).
"""

import math

import torch
from torch import Tensor

from pipeline.model.backend.matmul import batched_matmul, compute_dtype

# Three steps that bring singular values of 0.01 to 1 to within 0.27 of 1, each the best for what the one before left.
_COEFFICIENTS = (
    (8.0934, -23.6205, 17.4462),
    (3.6366, -2.7219, 0.5365),
    (2.6613, -1.9772, 0.4526),
)
_SAFETY = 1.01  # an estimate of a singular value above 1 must not diverge
_PIECE_ELEMENTS = 1 << 19  # 2 MiB in float32
_LEAST_ONE_BY_ONE = 1 << 16  # elements of a matrix: oneDNN multiplies one after the other, which costs time for each
HIGHWAY_ROWS = 64  # of a block; the cost of a highway layer grows with them
# Root mean square of the updates in units of the learning rate. Liu et al. take 0.2; with 0.14 Adam's parameters learn
# at a higher rate beside Muon's (lab/recipe.md).
_RMS = 0.14


def orthogonalized(matrices: Tensor, length: float = 1.0) -> Tensor:
    """Return the matrices (D, M, N) with their singular values near `length`; those under a hundredth stay smaller.

    Newton-Schulz steps are polynomials of the Gram matrix, so the smaller side alone is multiplied in each step: for an
    LSTM of 1024 cells and 128 outputs that is a third of the usual work. Under autocast the two products with the
    matrices themselves, which are most of it, and the result have its dtype; the steps do not.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalized(matrices.mT, length).mT
    dtype = compute_dtype(matrices)
    with torch.autocast(matrices.device.type, enabled=False):
        low = matrices.to(dtype)
        product = batched_matmul if matrices.shape[-2:].numel() >= _LEAST_ONE_BY_ONE else torch.bmm
        gram = product(low, low.mT).to(matrices.dtype)
        squares = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        scale = _SAFETY**-2 / squares.clamp(min=torch.finfo(gram.dtype).tiny)
        whole = _newton_schulz(gram.mul_(scale)).mul_(scale.sqrt().mul_(length))
        return product(whole.to(dtype), low)


def _newton_schulz(gram: Tensor) -> Tensor:
    """Return what multiplies the matrices of these Gram matrices (D, M, M), whose traces are just under 1.

    Rounding to bfloat16 can make small eigenvalues negative, to about -1e-4, which three steps bear. Five diverged.
    """
    whole = last = _polynomial(gram, *_COEFFICIENTS[0])
    for coefficients in _COEFFICIENTS[1:]:
        gram = last @ gram @ last  # symmetric, as all of these
        last = _polynomial(gram, *coefficients)
        whole = last @ whole
    return whole


def _polynomial(gram: Tensor, a: float, b: float, c: float) -> Tensor:
    result = (gram @ gram).mul_(c).add_(gram, alpha=b)
    result.diagonal(dim1=-2, dim2=-1).add_(a)
    return result


def pieces_of(parameter: Tensor, number: int, axis: int, in_caches: bool) -> list[Tensor]:
    """Return the matrices that stand side by side in a parameter (..., M, N), as views (..., M', N') that cover it.

    number: of matrices. axis: -1 if each has all rows and N / number columns, -2 if each has M / number rows and all
    columns. in_caches: cut into pieces whose whole update a CPU computes within its caches.
    """
    parts = parameter.unflatten(axis, (number, parameter.shape[axis] // number))
    matrices = parts.transpose(-2, -3) if axis == -1 else parts
    if not in_caches:
        return [matrices]
    together = max(1, _PIECE_ELEMENTS // matrices.shape[-2:].numel())
    batches = matrices.unbind(0) if matrices.dim() == 4 else [matrices]
    return [piece for batch in batches for piece in batch.split(together)]


def are_larger_than_caches(parameters: list[Tensor]) -> bool:
    """Return whether a CPU is faster at pieces of the parameters than at all of them together."""
    return sum(parameter.numel() for parameter in parameters) > _PIECE_ELEMENTS


def number_of_blocks(rows: int, most: int) -> int:
    """Return into how few equal blocks of at most `most` rows a number of rows divides."""
    return next(number for number in range(-(-rows // most), rows + 1) if rows % number == 0)


def muon_updates(grads: list[Tensor], means: list[Tensor], decay: float) -> list[Tensor]:
    """Return the updates of batches of matrices (..., in, out) by Nesterov's momentum, in units of the learning rate.

    Matrices of one shape are stacked: one batched product takes less time than many.
    """
    by_shape: dict[tuple[int, int], list[int]] = {}
    for place, grad in enumerate(grads):
        by_shape.setdefault((grad.shape[-2], grad.shape[-1]), []).append(place)
    updates = list(grads)
    for shape, places in by_shape.items():
        sizes = [grads[place].shape[:-2].numel() for place in places]
        stacked = grads[places[0]].new_empty(sum(sizes), *shape)
        for place, part in zip(places, stacked.split(sizes), strict=True):
            torch.lerp(grads[place], means[place], decay, out=part.view(grads[place].shape))
        parts = orthogonalized(stacked, _RMS * math.sqrt(max(shape))).split(sizes)
        for place, part in zip(places, parts, strict=True):
            updates[place] = part.view(grads[place].shape)
    return updates
