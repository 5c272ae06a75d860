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


def gate_blocks(parameter: Tensor, gates: int) -> Tensor:
    """Return the matrices (..., gates, in, out) that stand side by side in (..., in, gates * out), as a view."""
    return parameter.unflatten(-1, (gates, parameter.shape[-1] // gates)).transpose(-2, -3)


def muon_update(momentum: Tensor) -> Tensor:
    """Return the update of matrices (..., in, out), in units of the learning rate."""
    # Strided batches are multiplied several times as slowly on a CPU.
    return orthogonalized(momentum.contiguous(), _ADAMS_RMS * math.sqrt(max(momentum.shape[-2:])))
