"""Held-out perplexity: full softmax, both directions, every token exactly once. The project's one definition."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist

from pipeline.config.schema import EvaluateConfig
from pipeline.data.lanes import lane_share
from pipeline.data.windows import EvaluationWindows
from pipeline.model.bilm import BiLM, Window
from pipeline.model.token_encoder import word_lengths

_LEAST_TOKENS = 100  # of a lane, below which its mean loss says nothing


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean loss a token, </S> / <S> and <UNK> targets counted. tokens: scored in each direction.

    runaways: of the lanes' readings, one each way, those that do worse than uniform guesses while most do not. A model
    that saw the zero state at its first step only may start the wrong way there, and go on so to the lane's end
    (docs/results.md).
    """

    both: float
    forward: float
    backward: float
    tokens: int
    lanes: int
    runaways: int = 0

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)

    @property
    def warning(self) -> str:
        """What to know of the number, or nothing."""
        if not self.runaways:
            return ""
        return (
            f"{self.runaways} of {2 * self.lanes} readings of a lane ran away from the zero state that they start in, "
            "and so may sentences in use; data.cold_start_share=0.02 trains against it"
        )


@torch.no_grad()
def held_out_perplexity(
    bilm: BiLM, windows: EvaluationWindows, config: EvaluateConfig, device: torch.device, rank: int = 0, ranks: int = 1,
    on_lanes: Callable[[], None] = lambda: None,
) -> Perplexity:  # fmt: skip
    """Score this rank's lanes and sum over all ranks. The number depends on the lanes alone, not on who computes it.

    on_lanes: called after each group of lanes.
    """
    share, num_lanes = lane_share(windows.lanes.num_lanes, rank, ranks), windows.lanes.num_lanes
    totals = torch.zeros(4, dtype=torch.float64, device=device)  # nats forward, nats backward, tokens, runaways
    for first in range(share.start, share.stop, config.lanes_at_once):
        of_lanes = _score_lanes(bilm, windows, range(first, min(first + config.lanes_at_once, share.stop)), device)
        totals[:3] += of_lanes.sum(1)
        totals[3] += _worse_than_guesses(of_lanes, bilm.softmax.vocab_size)
        on_lanes()
    if ranks > 1:
        dist.all_reduce(totals)
    forward, backward, tokens, runaways = totals.tolist()
    return Perplexity(
        _exp((forward + backward) / (2 * tokens)), _exp(forward / tokens), _exp(backward / tokens), int(tokens),
        num_lanes, int(runaways) if runaways <= num_lanes else 0,
    )  # fmt: skip


def _worse_than_guesses(of_lanes: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """How many readings of lanes (nats forward, nats backward, tokens) lose more than log V a token."""
    tokens = of_lanes[2]
    return ((of_lanes[:2] > tokens * math.log(vocab_size)) & (tokens >= _LEAST_TOKENS)).sum()


def _score_lanes(bilm: BiLM, windows: EvaluationWindows, lanes: range, device: torch.device) -> torch.Tensor:
    """(3, lanes): nats forward, nats backward, tokens."""
    totals = torch.zeros(3, len(lanes), dtype=torch.float64, device=device)
    states = bilm.initial_states(len(lanes))
    for number in range(windows.lanes.num_windows):
        batch = windows.batch(number, lanes)
        lengths, batch = word_lengths(batch.characters), batch.to(device)
        assert batch.mask is not None
        losses, states = bilm.token_losses(Window(batch.characters, batch.word_index, lengths), batch.targets, states)
        totals[:2] += torch.where(batch.mask, losses.double(), 0.0).sum(1)
        totals[2] += batch.mask[0].sum(0)
    return totals


def _exp(mean_loss: float) -> float:
    return math.exp(mean_loss) if mean_loss < 700 else math.inf
