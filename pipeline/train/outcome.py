"""The outcome of a run: an exit code, and a text that names the next command."""

import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.terminal import print_text
from pipeline.train.cluster import signals
from pipeline.train.cluster.slurm_env import is_batch_job
from pipeline.train.cluster.stop_requests import STOP_FILE
from pipeline.train.cluster.torchrun_env import is_torchrun


class Failed(RuntimeError):
    """The training cannot continue; the message says why. is_everywhere: every rank raises it at the same step."""

    is_everywhere = True


class LoaderKilled(Failed):
    """A loader process of this rank was killed."""

    is_everywhere = False


class DataUnreachable(Failed):
    """This rank cannot read its data, or the mirror of its checkpoints, now: a later start may."""

    is_everywhere = False


class CheckpointUnseen(Failed):
    """This rank does not see the checkpoint from which rank 0 resumes."""

    is_everywhere = False


@dataclass
class Outcome:
    """The end of a run. saved_step: of its last checkpoint. stopped_by: the request that stopped it; "": it is over.

    uncopied: why the last checkpoint is not in checkpoint.mirror, "" if it is or need not be.
    """

    run_dir: Path
    step: int
    saved_step: int
    total_steps: int
    is_rank_zero: bool
    stopped_by: str = ""
    wandb_offline_dir: Path | None = None
    uncopied: str = ""

    @property
    def stopped(self) -> bool:
        return bool(self.stopped_by)

    @property
    def exit_code(self) -> int:
        if self.stopped and is_torchrun():  # every machine has to do the same: torchrun starts again what failed
            return 0 if self.stopped_by == STOP_FILE else signals.EXIT_PREEMPTED
        if not self.is_rank_zero:
            return 0  # else Lightning would kill rank 0, perhaps before it is done
        if self.stopped:
            return 0 if is_batch_job() else signals.EXIT_PREEMPTED
        return 0 if self.saved_step == self.step and not self.uncopied else 1

    def print_next_steps(self, command: str, arguments: list[str], data: str) -> None:
        """Print what the user can do next. command: pretrain or finetune, typed with `arguments`. data: its dataset."""
        if self.wandb_offline_dir is not None:
            how = f"`wandb leet` draws it here, `elmo sync {self.run_dir}` uploads it"
            print_text(f"wandb    {self.wandb_offline_dir}  ({how})")
        again = " ".join([f"elmo {command}", *arguments])
        if self.stopped:
            steps = f"step {self.step:,} of {self.total_steps:,} with a checkpoint of step {self.saved_step:,}"
            mirror = f"; checkpoint.mirror is behind: {self.uncopied}" if self.uncopied else ""
            print_text(f"stopped at {steps}{mirror}; to resume: {again}")
        elif self.saved_step != self.step:
            fault = f"the end could not be saved: the last checkpoint is of step {self.saved_step:,} of {self.step:,}"
            print_text(f"elmo {command}: {fault}; free some space and run again: {again}", sys.stderr)
        elif self.uncopied:
            fault = f"the last checkpoint is in {self.run_dir} but not in checkpoint.mirror ({self.uncopied})"
            print_text(f"elmo {command}: {fault}; run again to upload it: {again}", sys.stderr)
        else:
            print_text(f"Next: elmo evaluate checkpoint={self.run_dir} data={data}")
