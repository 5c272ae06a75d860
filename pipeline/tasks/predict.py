"""`elmo predict`: label new text by a trained task."""

from dataclasses import dataclass
from typing import Any

from data_prep.dataset.files import DataError
from data_prep.dataset.locations import local_path
from pipeline.config.tasks import PredictConfig
from pipeline.model.backend.device import choose_device
from pipeline.tasks.task import Task


@dataclass(frozen=True)
class Predicted:
    """scores: of the predictions, where the input has labels."""

    output: str
    examples: int
    scores: dict[str, float]
    main: str

    def __str__(self) -> str:
        scored = f", {self.main} {self.scores[self.main]:.2f} by the labels of the input" if self.scores else ""
        return f"{self.output}: {self.examples:,} examples{scored}"


def predict(config: PredictConfig) -> Predicted:
    """Write the predictions of a trained task. Raises ConfigError, DataError."""
    task = Task.from_pretrained(config.model, choose_device(config.accelerator))
    examples = task.kind.read(config.input, task.config, False)
    predictions = task.predict(examples, config.batch_size)
    task.kind.write(config.input, local_path(config.output, "output"), examples, predictions, task.config)
    return Predicted(config.output, len(examples), _scores(task, config, examples, predictions), task.kind.main)


def _scores(task: Task, config: PredictConfig, examples: list[Any], predictions: list[Any]) -> dict[str, float]:
    """Return the scores against the labels of the input, {} where it has none."""
    try:
        labelled = task.kind.read(config.input, task.config, True)
    except DataError:
        return {}
    scored = _of_labelled(labelled, examples, predictions)
    return task.kind.score(labelled, scored) if len(labelled) == len(scored) else {}


def _of_labelled(labelled: list[Any], examples: list[Any], predictions: list[Any]) -> list[Any]:
    """Return the predictions of the examples that have labels: SNLI's pairs labelled - are in `examples` only."""
    found: list[Any] = []
    for example, prediction in zip(examples, predictions, strict=True):
        if len(found) < len(labelled) and labelled[len(found)].texts() == example.texts():
            found.append(prediction)
    return found
