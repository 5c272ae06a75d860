"""Held-out perplexity: full softmax, both directions, every token exactly once. The project's one definition."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist

from pipeline.config.schema import EvaluateConfig
from pipeline.data.lanes import lane_share
from pipeline.data.windows import EvaluationWindows
from pipeline.model.bilm import Window
from pipeline.model.language_model import LanguageModel
from pipeline.model.token_encoder import word_lengths
from pipeline.train.step.collectives import wait_for

_MIN_TOKENS = 100  # a lane of fewer tokens has no meaningful mean loss


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean loss per token, </S> / <S> and <UNK> targets included. tokens: scored in each direction.

    diverged_lanes: evaluation lanes, counted in each direction, that did worse than uniform guessing while most lanes
    did not. A model that saw the zero state only at its first step can diverge from it until the end of the lane
    (docs/results.md).
    """

    both: float
    forward: float
    backward: float
    tokens: int
    lanes: int
    diverged_lanes: int = 0

    def as_dict(self) -> dict[str, float | int]:
        return asdict(self)

    @property
    def warning(self) -> str:
        """Return a warning about diverged lanes, "" if there are none."""
        if not self.diverged_lanes:
            return ""
        return (
            f"{self.diverged_lanes} of {2 * self.lanes} evaluation lanes did worse than uniform guessing after "
            "starting from a zero state; single sentences may be affected too. Continue training with "
            "data.cold_start_share=0.02 to fix this."
        )


@torch.no_grad()
def held_out_perplexity(
    bilm: LanguageModel,
    windows: EvaluationWindows,
    config: EvaluateConfig,
    device: torch.device,
    rank: int = 0,
    ranks: int = 1,
    beat: Callable[[], None] = lambda: None,
) -> Perplexity:
    """Score this rank's lanes and sum over all ranks. The result depends on the lanes only, not on the number of ranks.

    beat: called after each window, and while this rank waits for others.
    """
    share, num_lanes = lane_share(windows.lanes.num_lanes, rank, ranks), windows.lanes.num_lanes
    totals = torch.zeros(4, dtype=torch.float64, device=device)  # nats forward, nats backward, tokens, diverged_lanes
    for first in range(share.start, share.stop, config.lanes_at_once):
        lanes = range(first, min(first + config.lanes_at_once, share.stop))
        of_lanes = _score_lanes(bilm, windows, lanes, device, beat)
        totals[:3] += of_lanes.sum(1)
        totals[3] += _count_diverged(of_lanes, bilm.softmax.vocab_size)
    if ranks > 1:
        wait_for(dist.all_reduce(totals, async_op=True), beat)
    forward, backward, tokens, diverged_lanes = totals.tolist()
    both = _exp((forward + backward) / (2 * tokens))
    diverged = int(diverged_lanes) if diverged_lanes <= num_lanes else 0
    return Perplexity(both, _exp(forward / tokens), _exp(backward / tokens), int(tokens), num_lanes, diverged)


def _count_diverged(of_lanes: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """Return how many lanes, in each direction, lose more than log V per token. of_lanes: see `_score_lanes`."""
    tokens = of_lanes[2]
    return ((of_lanes[:2] > tokens * math.log(vocab_size)) & (tokens >= _MIN_TOKENS)).sum()


def _score_lanes(
    bilm: LanguageModel, windows: EvaluationWindows, lanes: range, device: torch.device, beat: Callable[[], None]
) -> torch.Tensor:
    """Return (3, lanes): nats forward, nats backward, tokens."""
    totals = torch.zeros(3, len(lanes), dtype=torch.float64, device=device)
    states = bilm.initial_states(len(lanes))
    for number in range(windows.lanes.num_windows):
        batch = windows.batch(number, lanes)
        lengths, batch = word_lengths(batch.characters), batch.to(device)
        assert batch.mask is not None
        losses, states = bilm.token_losses(Window(batch.characters, batch.word_index, lengths), batch.targets, states)
        totals[:2] += torch.where(batch.mask, losses.double(), 0.0).sum(1)
        totals[2] += batch.mask[0].sum(0)
        beat()
    return totals


def _exp(mean_loss: float) -> float:
    return math.exp(mean_loss) if mean_loss < 700 else math.inf
