"""The output layer: a sampled loss whose gradient holds touched rows only, and the full loss in vocabulary blocks."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.model.affixes import AffixRows, add_shared_rows
from pipeline.model.backend.device import uses_kernels
from pipeline.model.backend.matmul import compute_dtype, matmul

# Logits that the full softmax computes at once: 8 MiB in float32, to fit a CPU's cache; 256 MiB to fill a GPU.
_BLOCK_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 26}
_MOST_ROWS = {"cpu": 512}  # positions whose logits are computed at once, for the same reason; no limit on a GPU


class Places(NamedTuple):
    """Touched rows of a window and the places of its words among them. The CPU computes them from word ids alone.

    ids (R,) rising: the touched rows. candidates (S, C), targets (2, N): places in ids, S the number of sets.
    hits (2, N): the place of each target among its direction's candidates, or -1.
    """

    ids: Tensor
    candidates: Tensor
    targets: Tensor
    hits: Tensor


class Rows(NamedTuple):
    """Touched rows of the table as autograd leaves, weight (R, P) and bias (R,), and the places of words in them."""

    places: Places
    weight: Tensor
    bias: Tensor

    @property
    def ids(self) -> Tensor:
        return self.places.ids


class Candidates(NamedTuple):
    """Sampled words of a window: one set for both directions, or one for each.

    ids (1 or 2, C) in any order. num_tries (1 or 2,): draws until each set had C distinct words.
    """

    ids: Tensor
    num_tries: Tensor


class Softmax(nn.Module):
    """Table (V, P) and bias (V,) shared by both directions; word k is the k-th most frequent."""

    def __init__(self, vocab_size: int, proj_dim: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.affixes: AffixRows | None = None  # rows added to the table's, in a training with softmax.affixes
        self.weight = nn.Parameter(torch.empty(vocab_size, proj_dim))
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        nn.init.normal_(self.weight, std=1 / math.sqrt(proj_dim))  # bilm-tf training.py:459-470

    @torch.no_grad()
    def start_as_unigrams(self, shares: Tensor) -> None:
        """Initialise so that each word is predicted by its share (V,) of the text, for any input.

        bilm-tf's random rows are noise. The row of a rare word is seldom trained and keeps its noise for long. Under
        the full softmax the many rare words then get too much probability, more so the longer the input vectors become.
        A word that was never seen gets half of the smallest share.
        """
        self.weight.zero_()
        least = shares[shares > 0].min() / 2 if shares.any() else 1.0
        self.bias.copy_(shares.clamp(min=least).log())

    def share_rows(self, words: Sequence[str]) -> None:
        """Add rows that words share by their spelling. words (V,): those of the table."""
        self.affixes = AffixRows(words, self.weight.shape[1])

    def touched_rows(self, places: Places) -> Rows:
        """Copy the rows of candidates and targets out of the table. Gradients go to the copies, never to the table."""
        weight, bias = (values.detach()[places.ids] for values in (self.weight, self.bias))
        if self.affixes is not None:
            weight += self.affixes.rows(places.ids)
        return Rows(places, *(leaf.requires_grad_(torch.is_grad_enabled()) for leaf in (weight, bias)))

    def pass_gradient_on(self) -> None:
        """Set the gradient of the shared rows from that of the touched rows."""
        if self.affixes is not None and self.weight.grad is not None:
            rows = self.weight.grad
            self.affixes.weight.grad = self.affixes.gradient(rows.indices()[0], rows.values())

    @contextmanager
    def with_shared_rows_added(self) -> Iterator[None]:
        """Within, the table's rows are what is evaluated: with the shared rows added. It takes a copy of the table."""
        own, affixes = self.weight.data, self.affixes
        if affixes is not None:
            self.weight.data, self.affixes = add_shared_rows(own, affixes), None
        try:
            yield
        finally:
            self.weight.data, self.affixes = own, affixes

    def sampled_loss(self, y: Tensor, targets: Tensor, candidates: Candidates, rows: Rows) -> Tensor:
        """Return the loss (2, N) in nats of y (2, N, P) for targets (2, N) against sampled candidates.

        The log of the expected count is subtracted from logits; a candidate that is the target is left out
        (bilm-tf training.py:502-509, TF's sampled_softmax_loss with remove_accidental_hits).
        """
        sets = len(candidates.ids)
        losses = [
            self._sampled(y[s::sets].flatten(0, 1), targets[s::sets].flatten(), candidates, s, rows)
            for s in range(sets)
        ]
        return torch.cat(losses).view_as(targets)

    def _sampled(self, y: Tensor, targets: Tensor, candidates: Candidates, s: int, rows: Rows) -> Tensor:
        """Return (n,): the loss of all positions whose candidates are set s."""
        sets, dtype, number = len(candidates.ids), rows.weight.dtype, candidates.ids.shape[1]
        places, hits = (values[s::sets].flatten() for values in (rows.places.targets, rows.places.hits))
        ids = torch.cat([candidates.ids[s], targets])
        expected = self._log_expected(ids, candidates.num_tries[s]).to(dtype)
        true_logits = (y.to(dtype) * F.embedding(places, rows.weight)).sum(-1) + rows.bias[places] - expected[number:]
        weight = F.embedding(rows.places.candidates[s], rows.weight)
        bias = rows.bias[rows.places.candidates[s]] - expected[:number]
        return _SampledLoss.apply(y, weight, bias, true_logits, hits)

    def _log_expected(self, word_ids: Tensor, num_tries: Tensor) -> Tensor:
        """Return log(-expm1(num_tries log1p(-P))), as TF does, in float64 because 1 - P rounds to 1 in float32."""
        probability = torch.log1p(1 / (word_ids.double() + 1)) / math.log(self.vocab_size + 1)
        return torch.log(-torch.expm1(num_tries.double() * torch.log1p(-probability)))

    def full_loss(self, y: Tensor, targets: Tensor) -> Tensor:
        """Return the exact loss (N,) in nats of y (N, P) for targets (N,), in blocks of words: no (N, V) matrix."""
        return _FullLoss.apply(y, self.weight, self.bias, targets)

    @torch.no_grad()
    def log_normalisers(self, y: Tensor) -> Tensor:
        """Return (N,) of y (N, P): what `full_loss` subtracts `logits` from. It depends on no target."""
        dtype = compute_dtype(y)
        with torch.autocast(y.device.type, enabled=False):
            return _log_normalisers(y.to(dtype), self.weight, self.bias)

    @torch.no_grad()
    def logits(self, y: Tensor, targets: Tensor) -> Tensor:
        """Return (N,): the logit of one target each of y (N, P)."""
        dtype = compute_dtype(y)
        with torch.autocast(y.device.type, enabled=False):
            return _true_logits(y.to(dtype), self.weight, self.bias, targets)


def find_places(candidates: Tensor, targets: Tensor) -> Places:
    """Return the places of candidates (1 or 2, C), each set without repetition, and of targets (2, N)."""
    ids, places = torch.unique(torch.cat([candidates.flatten(), targets.flatten()]), return_inverse=True)
    of_candidates, of_targets = places.split([candidates.numel(), targets.numel()])
    of_candidates, of_targets = of_candidates.view_as(candidates), of_targets.view_as(targets)
    numbers = torch.arange(candidates.shape[1], device=ids.device).expand_as(candidates)
    candidate_at = torch.full((len(candidates), len(ids)), -1, device=ids.device).scatter_(1, of_candidates, numbers)
    hits = candidate_at.expand(2, -1).gather(1, of_targets)
    return Places(ids, of_candidates, of_targets, hits)


class _SampledLoss(torch.autograd.Function):
    """loss = log(exp(true) + sum over candidates of exp(y . w + b)) - true, keeping one (N, C) buffer."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, true_logits: Tensor, hits: Tensor) -> Tensor:
        dtype = compute_dtype(y)
        with torch.autocast(y.device.type, enabled=False):
            run = _sampled_probabilities_fused if uses_kernels(bias) else _sampled_probabilities
            probabilities, normaliser = run(y.to(dtype), weight.to(dtype), bias, true_logits, hits)
        ctx.save_for_backward(y, weight, probabilities, torch.exp(true_logits - normaliser))
        ctx.dtype = dtype
        return normaliser - true_logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, probabilities, true_probability = ctx.saved_tensors
        scale = grads[0]
        # Scale the (N, P) operands and not the (N, C) one, because P is far smaller than C.
        low, scaled_y = probabilities.to(ctx.dtype), (y * scale.unsqueeze(1)).to(ctx.dtype)
        dy = matmul(low, weight.to(ctx.dtype)).to(y.dtype).mul_(scale.unsqueeze(1))
        dweight = matmul(scaled_y.t(), low).t().to(weight.dtype)  # oneDNN copies a left matrix that is a view
        dbias = (scale.to(probabilities.dtype) @ probabilities).to(scale.dtype)
        return dy, dweight, dbias, (true_probability - 1) * scale, None


def _sampled_probabilities(
    y: Tensor, weight: Tensor, bias: Tensor, true_logits: Tensor, hits: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (N, C) probabilities of the candidates, 0 at the hits, and (N,) log-normalisers."""
    logits = _affine(y, weight, bias)
    columns = hits.clamp(min=0).unsqueeze(1)
    kept = torch.where(hits.unsqueeze(1) < 0, logits.gather(1, columns), -math.inf)
    logits.scatter_(1, columns, kept)
    top = torch.maximum(logits.amax(1), true_logits)
    probabilities = logits.sub_(top.unsqueeze(1)).exp_()
    total = probabilities.sum(1) + torch.exp(true_logits - top)
    return probabilities.div_(total.unsqueeze(1)), total.log() + top


def _sampled_probabilities_fused(
    y: Tensor, weight: Tensor, bias: Tensor, true_logits: Tensor, hits: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the same by Triton kernels, in two passes over the logits; probabilities are in the compute dtype."""
    from pipeline.model.backend import triton_softmax as kernels

    logits = matmul(y, weight.t())
    top, total = true_logits.clone(), torch.ones_like(true_logits)
    kernels.add_exponentials(logits, bias, hits, top, total)
    normaliser = top + total.log()
    kernels.to_probabilities_(logits, bias, hits, normaliser)
    return logits, normaliser


class _FullLoss(torch.autograd.Function):
    """Keep only the log-normaliser of each position; backward computes each block's logits again."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        dtype = compute_dtype(y)
        with torch.autocast(y.device.type, enabled=False):
            low = y.to(dtype)
            normaliser = _log_normalisers(low, weight, bias)
            true = _true_logits(low, weight, bias, targets)
        ctx.save_for_backward(y, weight, bias, targets, normaliser)
        ctx.dtype = dtype
        return normaliser - true

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, weight, bias, targets, normaliser = ctx.saved_tensors
        low, scale = y.to(ctx.dtype), grads[0].unsqueeze(1)
        dy, dweight, dbias = torch.zeros_like(normaliser.unsqueeze(1) * y), torch.empty_like(weight), bias.clone()
        for start, end in _blocks(weight, len(y)):
            block = weight[start:end].to(ctx.dtype)
            share = _affine(low, block, bias[start:end]).sub_(normaliser.unsqueeze(1)).exp_()
            columns, inside = targets - start, (targets >= start) & (targets < end)
            share.scatter_add_(1, columns.clamp(0, end - start - 1).unsqueeze(1), -inside.to(share.dtype).unsqueeze(1))
            share.mul_(scale)
            dy += matmul(share.to(ctx.dtype), block).to(dy.dtype)
            dweight[start:end] = matmul(share.to(ctx.dtype).t(), low).to(weight.dtype)
            dbias[start:end] = share.sum(0)
        return dy.to(y.dtype), dweight, dbias, None


def _log_normalisers(low: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return _normaliser_fused(low, weight, bias) if uses_kernels(bias) else _normaliser(low, weight, bias)


def _true_logits(low: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    return (low.to(bias.dtype) * weight[targets].to(low.dtype)).sum(-1) + bias[targets]


def _normaliser(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return (N,): log of the sum of exp(y . w + b) over all words.

    The sum over a block is taken from log_softmax, whose exponential is faster than that of logsumexp on a CPU.
    """
    normaliser = torch.full_like(bias[:1], -math.inf).expand(len(y)).clone()
    rows = _MOST_ROWS.get(y.device.type, len(y))
    for start, end in _blocks(weight, min(rows, len(y))):
        block = weight[start:end].to(y.dtype)
        for part, total in zip(y.split(rows), normaliser.split(rows), strict=True):
            logits = _affine(part, block, bias[start:end])
            of_block = logits[:, 0] - torch.log_softmax(logits, 1)[:, 0]
            torch.logaddexp(total, of_block, out=total)
    return normaliser


def _normaliser_fused(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the same by Triton kernels, in one pass over each block's logits."""
    from pipeline.model.backend import triton_softmax as kernels

    none = torch.full((len(y),), -1, device=y.device)
    top, total = bias.new_full((len(y),), -math.inf), bias.new_zeros(len(y))
    for start, end in _blocks(weight, len(y)):
        logits = matmul(y, weight[start:end].to(y.dtype).t())
        kernels.add_exponentials(logits, bias[start:end], none, top, total)
    return top + total.log()


def _affine(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return y @ weight.T + bias in the dtype of bias (float32 logits under bf16)."""
    if y.dtype == bias.dtype:
        return matmul(y, weight.t(), bias)
    return matmul(y, weight.t()).to(bias.dtype).add_(bias)


def _blocks(weight: Tensor, num_positions: int) -> list[tuple[int, int]]:
    elements = _BLOCK_ELEMENTS.get(weight.device.type, _BLOCK_ELEMENTS["cuda"])
    size, vocab_size = max(1024, elements // max(1, num_positions)), len(weight)
    return [(start, min(start + size, vocab_size)) for start in range(0, vocab_size, size)]
