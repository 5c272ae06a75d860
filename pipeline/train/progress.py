"""Training progress on standard error, on rank 0 only: a bar in a terminal, else a line at an interval."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from tqdm import tqdm

from pipeline.train.callbacks import Metrics, StepCallback, Validation
from pipeline.train.step.module import BiLMModule, StepEnd

LINE_EVERY_LOGS = 10  # without a terminal: one line for this many logs, so that a job's log stays short
_BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class ProgressBar(StepCallback):
    """Show steps, perplexity, tokens/s and time left of the whole run, the part before a resume included."""

    def __init__(
        self, start_step: int, total_steps: int, metrics: Metrics, validation: Validation, what: str = "pretrain"
    ) -> None:
        self._what = what
        self._start, self._total, self._metrics, self._validation = start_step, total_steps, metrics, validation
        self._bar: tqdm[Any] | None = None
        self._begun = self._last_line = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.monotonic()
        if trainer.is_global_zero and sys.stderr.isatty():
            self._bar = tqdm(
                initial=self._start, total=self._total, unit="step", desc=self._what, dynamic_ncols=True,
                smoothing=0.05, bar_format=_BAR,
            )  # fmt: skip

    def on_step_end(self, trainer: pl.Trainer, module: BiLMModule, end: StepEnd) -> None:
        every = module.config.train.log_every_steps
        if self._bar is not None:
            if end.step % every == 0:
                self._bar.set_postfix_str(", ".join(self._shown()), refresh=False)
            self._bar.update(1)
        elif trainer.is_global_zero and (end.step % (every * LINE_EVERY_LOGS) == 0 or module.state.is_over):
            print(self._line(end.step), file=sys.stderr, flush=True)

    def _shown(self) -> list[str]:
        """Return the latest figures, training before validation."""
        metrics, last = self._metrics, self._validation.last
        shown = [] if metrics.perplexity is None else [f"{metrics.perplexity_kind} perplexity {metrics.perplexity:.1f}"]
        shown += [] if last is None else [f"held out {last[1].both:.1f}"]
        return [*shown, f"{metrics.tokens_per_second:,.0f} tokens/s"]

    def _line(self, step: int) -> str:
        """Return a line of progress; time left is by the speed of this start, validation and checkpoints included."""
        seconds = (time.monotonic() - self._begun) / max(1, step - self._start) * (self._total - step)
        left = f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}"
        share = f"{step / self._total:.0%}"
        return f"step {step:,} of {self._total:,} ({share}): {', '.join(self._shown())}, {left} left"

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None:
            self._bar.close()
