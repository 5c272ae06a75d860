"""Linear-chain conditional random field, and Viterbi decoding under the rules of BIO and BIOES tags.

Own code, because pytorch-crf always has start and end scores and knows no constraints. Source: AllenNLP
modules/conditional_random_field.py: no start or end scores, constraints at decoding only.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Scheme = Literal["none", "bio", "bioes"]


class Constraints(NamedTuple):
    """Scores to add at decoding, 0 for what is allowed and -inf for what is not.

    start (N,): first tags; transitions (N, N): from row to column; end (N,): last tags.
    """

    start: Tensor
    transitions: Tensor
    end: Tensor


def constraints(labels: Sequence[str], scheme: Scheme) -> Constraints:
    """Return the rules of a scheme.

    bio: I-X follows B-X or I-X. bioes: B-X and I-X go on as I-X or E-X; all others are followed by O, B- or S-.
    """
    outside = "O"
    start = [_allowed(outside, label, scheme) for label in labels]
    between = [[_allowed(a, b, scheme) for b in labels] for a in labels]
    end = [_allowed(label, outside, scheme) for label in labels]
    return Constraints(*(torch.where(torch.tensor(rule), 0.0, -torch.inf) for rule in (start, between, end)))


def _allowed(first: str, second: str, scheme: Scheme) -> bool:
    (prefix, _, kind), (next_prefix, _, next_kind) = first.partition("-"), second.partition("-")
    goes_on = {"bio": ("I",), "bioes": ("I", "E"), "none": ()}[scheme]
    if next_prefix in goes_on:
        return prefix in ("B", "I") and kind == next_kind
    return scheme != "bioes" or prefix not in ("B", "I")


def viterbi(scores_btn: Tensor, mask: Tensor, transitions: Tensor, rules: Constraints) -> list[list[int]]:
    """Return the best tags of each sequence: the greatest sum of scores, transitions and rules."""
    scores_btn, transitions = scores_btn.detach(), transitions.detach() + rules.transitions
    best = scores_btn[:, 0] + rules.start
    came_from = []
    for scores, is_word in zip(scores_btn.unbind(1)[1:], mask.unbind(1)[1:], strict=True):
        through = best[:, :, None] + transitions
        value, source = through.max(1)
        best = torch.where(is_word[:, None], value + scores, best)
        came_from.append(source)
    return _traced((best + rules.end).argmax(1), came_from, mask)


def _traced(last: Tensor, came_from: list[Tensor], mask: Tensor) -> list[list[int]]:
    sources = torch.stack(came_from, 1).cpu().numpy() if came_from else None
    paths = []
    for row, (tag, length) in enumerate(zip(last.tolist(), mask.sum(1).tolist(), strict=True)):
        path = [tag] if length else []
        for step in range(length - 2, -1, -1):
            assert sources is not None
            path.append(int(sources[row, step, path[-1]]))
        paths.append(path[::-1])
    return paths


class Crf(nn.Module):
    """Score of tags: the sum of their emissions and of the transitions between neighbours. Starts Xavier normal."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.empty(num_labels, num_labels))
        nn.init.xavier_normal_(self.transitions)

    def negative_log_likelihood(self, emissions_btn: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """Return the sum over the batch."""
        return self.log_partition(emissions_btn, mask).sum() - self.score(emissions_btn, tags, mask).sum()

    def log_partition(self, emissions_btn: Tensor, mask: Tensor) -> Tensor:
        """(B,): log of the sum over all tag sequences of exp(score)."""
        total = emissions_btn[:, 0]
        for emissions, is_word in zip(emissions_btn.unbind(1)[1:], mask.unbind(1)[1:], strict=True):
            longer = torch.logsumexp(total[:, :, None] + self.transitions, 1) + emissions
            total = torch.where(is_word[:, None], longer, total)
        return torch.logsumexp(total, 1)

    def score(self, emissions_btn: Tensor, tags: Tensor, mask: Tensor) -> Tensor:
        """(B,): score of the given tags."""
        emitted = emissions_btn.gather(2, tags[..., None])[..., 0] * mask
        moved = self.transitions[tags[:, :-1], tags[:, 1:]] * mask[:, 1:]
        return emitted.sum(1) + moved.sum(1)
