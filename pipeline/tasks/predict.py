"""`elmo predict`: label new text by a trained task."""

from dataclasses import dataclass

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
    return Predicted(config.output, len(examples), _scores(task, config, predictions), task.kind.main)


def _scores(task: Task, config: PredictConfig, predictions: list[object]) -> dict[str, float]:
    """Return the scores against the labels of the input, {} where it has none."""
    try:
        labelled = task.kind.read(config.input, task.config, True)
    except DataError:
        return {}
    return task.kind.score(labelled, predictions) if len(labelled) == len(predictions) else {}
