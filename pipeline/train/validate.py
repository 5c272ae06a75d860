"""Held-out perplexity: full softmax, both directions, every token exactly once. The project's one definition."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist

from pipeline.config import EvaluateConfig
from pipeline.data.lanes import lane_share
from pipeline.data.windows import EvaluationWindows
from pipeline.model.bilm import BiLM, Window


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean loss a token, </S> / <S> and <UNK> targets counted. tokens: scored in each direction."""

    both: float
    forward: float
    backward: float
    tokens: int
    lanes: int

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)


@torch.no_grad()
def held_out_perplexity(
    bilm: BiLM, windows: EvaluationWindows, config: EvaluateConfig, device: torch.device, rank: int = 0, ranks: int = 1,
    on_lanes: Callable[[], None] = lambda: None,
) -> Perplexity:  # fmt: skip
    """Score this rank's lanes and sum over all ranks. The number depends on the lanes alone, not on who computes it.

    on_lanes: called after each group of lanes.
    """
    share = lane_share(windows.lanes.num_lanes, rank, ranks)
    totals = torch.zeros(3, dtype=torch.float64, device=device)  # nats forward, nats backward, tokens
    for first in range(share.start, share.stop, config.lanes_at_once):
        totals += _score_lanes(bilm, windows, range(first, min(first + config.lanes_at_once, share.stop)), device)
        on_lanes()
    if ranks > 1:
        dist.all_reduce(totals)
    forward, backward, tokens = totals.tolist()
    return Perplexity(
        _exp((forward + backward) / (2 * tokens)), _exp(forward / tokens), _exp(backward / tokens), int(tokens),
        windows.lanes.num_lanes,
    )  # fmt: skip


def _score_lanes(bilm: BiLM, windows: EvaluationWindows, lanes: range, device: torch.device) -> torch.Tensor:
    totals = torch.zeros(3, dtype=torch.float64, device=device)
    states = bilm.initial_states(len(lanes))
    for number in range(windows.lanes.num_windows):
        batch = windows.batch(number, lanes).to(device)
        assert batch.mask is not None
        losses, states = bilm.token_losses(Window(batch.characters, batch.index), batch.targets, states)
        totals[:2] += torch.where(batch.mask, losses.double(), 0.0).sum((1, 2))
        totals[2] += batch.mask[0].sum()
    return totals


def _exp(mean_loss: float) -> float:
    return math.exp(mean_loss) if mean_loss < 700 else math.inf
