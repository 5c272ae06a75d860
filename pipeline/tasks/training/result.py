"""The result of a training of a task: what is printed at its end, and RUN_DIR/result.json."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.files import write_json
from data_prep.dataset.typed_json import Count
from pipeline.tasks.training.state import TaskState
from pipeline.train.cluster import signals
from pipeline.train.cluster.torchrun_env import is_torchrun

RESULT = "result.json"
Scores = dict[str, float]


class SavedMix(TypedDict):
    """weights: of the layers, after the softmax."""

    weights: list[float]
    gamma: float


class SavedResult(TypedDict):
    """result.json.

    settings: those that scores depend on. contents: hashes of the files and of the biLM, of a task. seconds: of
    training, evaluations on dev included, all starts together.
    """

    task: str
    settings: dict[str, Any]
    contents: NotRequired[dict[str, str]]
    main: str
    scores: dict[str, Scores]
    learned: dict[str, SavedMix]
    best_step: Count
    steps: Count
    seconds: float


@dataclass(frozen=True)
class TaskResult:
    """The end of a training. main: the score that early stopping watches. scores: of dev and test, empty if stopped.

    learned: (weights of the layers, gamma) of each place of ELMo. stopped_by: the signal that stopped it.
    """

    run_dir: Path
    task: str
    main: str
    state: TaskState
    scores: dict[str, Scores]
    learned: dict[str, tuple[list[float], float]]
    stopped_by: str | None = None

    def __str__(self) -> str:
        if self.stopped_by is not None:
            step = f"{self.state.step:,}"
            return f"stopped by {self.stopped_by} at step {step}, which is saved; run the same command again to resume"
        names = [self.main, *sorted(name for name in self.scores["dev"] if name != self.main)]
        width = max(map(len, names))
        lines = [f"{'':{width}}  " + "".join(f"{part:>8}" for part in self.scores)]
        for name in names:
            values = (found.get(name) for found in self.scores.values())
            lines.append(
                f"{name:{width}}  " + "".join(f"{'' if value is None else f'{value:.2f}':>8}" for value in values)
            )
        lines.append(f"best on dev at step {self.state.best_step:,} of {self.state.step:,}")
        for place, (weights, gamma) in self.learned.items():
            shown = ", ".join(f"layer {number} {weight:.3f}" for number, weight in enumerate(weights))
            lines.append(f"ELMo at the {place}: {shown}; gamma {gamma:.3f}")
        return "\n".join(lines)

    def exit_code(self, rank: int) -> int:
        """Return the exit code of a rank: 75 after a stop, on all ranks of torchrun and else on rank 0 only.

        torchrun starts all ranks again after one failed. Lightning would kill rank 0, perhaps before it is done.
        """
        return signals.EXIT_PREEMPTED if self.stopped_by is not None and (rank == 0 or is_torchrun()) else 0

    def save(self, settings: dict[str, Any], contents: dict[str, str] | None = None) -> None:
        """Write result.json, the sign that the training has ended."""
        saved: SavedResult = {
            "task": self.task,
            "settings": settings,
            "contents": contents or {},
            "main": self.main,
            "scores": self.scores,
            "learned": {place: {"weights": w, "gamma": gamma} for place, (w, gamma) in self.learned.items()},
            "best_step": self.state.best_step,
            "steps": self.state.step,
            "seconds": self.state.seconds,
        }
        write_json(self.run_dir / RESULT, saved)
