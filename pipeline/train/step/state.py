"""The training state besides weights and the optimizer's sums. A checkpoint holds all of it."""

from dataclasses import dataclass, field

from pipeline.model.bilm import States


@dataclass
class TrainingState:
    """The module writes each field except `validations`, to which the Validation callback appends.

    lstm: LSTM states of this rank's lane groups; None before the first step. step: steps done, dropped steps included.
    validations: (step, held-out perplexity) of each validation at an interval.
    """

    total_steps: int
    patience: int | None
    lstm: list[States | None]
    step: int = 0
    bad_steps: int = 0
    bad_steps_in_a_row: int = 0
    validations: list[tuple[int, float]] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Return whether all steps are done, or the held-out perplexity has stopped falling (train.patience)."""
        return self.step >= self.total_steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Return whether held-out perplexity has not fallen for `patience` validations."""
        if self.patience is None or not self.validations:
            return False
        perplexities = [perplexity for _, perplexity in self.validations]
        return len(perplexities) - 1 - perplexities.index(min(perplexities)) >= self.patience
