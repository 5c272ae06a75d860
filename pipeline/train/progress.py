"""Training progress on standard error, on rank 0 only: a bar in a terminal, else a line at an interval."""

import pytorch_lightning as pl

from data_prep.progress import Progress
from pipeline.train.callbacks import Metrics, StepCallback, Validation
from pipeline.train.step.module import BiLMModule, StepEnd

LINE_EVERY_LOGS = 10  # without a terminal: one line for this many logs, so that a job's log stays short


class ProgressBar(StepCallback):
    """Show steps, perplexity, tokens/s and time left of the whole run, the part before a resume included."""

    def __init__(
        self, start_step: int, total_steps: int, metrics: Metrics, validation: Validation, what: str = "pretrain"
    ) -> None:
        self._what = what
        self._start, self._total, self._metrics, self._validation = start_step, total_steps, metrics, validation

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._progress = Progress(self._what, self._total, trainer.is_global_zero, "step", lambda *_: self._shown())
        self._progress.start_at(self._start)

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule, end: StepEnd) -> None:
        every = module.config.train.log_every_steps * LINE_EVERY_LOGS
        self._progress.update(end.step, is_line_due=end.step % every == 0 or module.state.is_over)

    def _shown(self) -> str:
        """Return the latest figures, training before validation."""
        metrics, last = self._metrics, self._validation.last
        shown = [] if metrics.perplexity is None else [f"{metrics.perplexity_kind} perplexity {metrics.perplexity:.1f}"]
        shown += [] if last is None else [f"held out {last[1].both:.1f}"]
        return ", ".join([*shown, f"{metrics.tokens_per_second:,.0f} tokens/s"])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._progress.close()
