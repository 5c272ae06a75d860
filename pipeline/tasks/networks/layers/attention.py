"""Attention and pooling that padding cannot change."""

import torch
from torch import Tensor, nn


def masked_softmax(scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Return softmax over the places where mask is True, 0 elsewhere; all 0 where there is none."""
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(scores.masked_fill(~mask, lowest), dim) * mask


def masked_mean(x_btd: Tensor, mask: Tensor) -> Tensor:
    """(B, D): the mean over words."""
    return (x_btd * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def masked_max(x_btd: Tensor, mask: Tensor) -> Tensor:
    """(B, D): the maximum over words."""
    return x_btd.masked_fill(~mask[..., None], torch.finfo(x_btd.dtype).min).amax(1)


def masked_min(x_btd: Tensor, mask: Tensor) -> Tensor:
    """(B, D): the minimum over words."""
    return -masked_max(-x_btd, mask)


class Trilinear(nn.Module):
    """Similarity w1 x + w2 y + (w3 * x) y + bias of each pair (Seo et al. 2017; document-qa similarity_layers.py).

    The weights start Xavier uniform as vectors (D -> 1), the bias at 0. No (B, T, U, D) tensor is made.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.left, self.right, self.both = (nn.Parameter(torch.empty(1, dim)) for _ in range(3))
        self.bias = nn.Parameter(torch.zeros(()))
        for weight in (self.left, self.right, self.both):
            nn.init.xavier_uniform_(weight)

    def forward(self, x_btd: Tensor, y_bud: Tensor) -> Tensor:
        """(B, T, U)."""
        left, right = x_btd @ self.left.T, (y_bud @ self.right.T).transpose(1, 2)
        return torch.baddbmm(left + right, x_btd * self.both, y_bud.transpose(1, 2)) + self.bias


class BiAttention(nn.Module):
    """Context attends to question and back (Seo et al. 2017; document-qa attention.py:115-141).

    Returns [x; a; x * a; x * c] (B, T, 4 D): a is the question seen by each context word; c the context, attended with
    the softmax of each word's best match.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.similarity = Trilinear(dim)

    def forward(self, x_btd: Tensor, x_mask: Tensor, q_bud: Tensor, q_mask: Tensor) -> Tensor:
        scores = self.similarity(x_btd, q_bud)
        attended = masked_softmax(scores, q_mask[:, None]) @ q_bud
        best = scores.masked_fill(~q_mask[:, None], torch.finfo(scores.dtype).min).amax(2)
        context = masked_softmax(best, x_mask)[:, None] @ x_btd
        return torch.cat([x_btd, attended, x_btd * attended, x_btd * context], -1)


class SelfAttention(nn.Module):
    """Words attend to the other words of their text (document-qa attention.py:72-85).

    A word's own position is masked, and the softmax has one more logit without a value, learned, -1 at the start.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.similarity = Trilinear(dim)
        self.nothing = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x_btd: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D)."""
        scores = self.similarity(x_btd, x_btd)
        others = mask[:, None] & ~torch.eye(scores.shape[1], dtype=torch.bool, device=mask.device)
        scores = scores.masked_fill(~others, torch.finfo(scores.dtype).min)
        nothing = self.nothing.expand(*scores.shape[:2], 1)
        return torch.softmax(torch.cat([scores, nothing], -1), -1)[..., :-1] @ x_btd
