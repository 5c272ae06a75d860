"""Each network learns, in seconds, a made-up task that needs its special parts, and is right on new examples."""

from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.task_networks import ElmoConfig
from pipeline.tasks.networks.sequences import Batch, Tables
from tests.tasks.networks.made_up import TASKS, Task, layers_of


@pytest.mark.parametrize(("name", "place"), [*((name, "none") for name in TASKS), ("sentiment", "both")])
def test_a_network_learns_a_task_that_needs_it(name: str, place: str) -> None:
    task = TASKS[name]
    training, dev = task.examples(1000, seed=1), task.examples(60, seed=2)
    network, tables = task.network(training, ElmoConfig(place))  # type: ignore[arg-type]
    optimizer = torch.optim.Adam(network.parameters(), task.rate)
    generator = np.random.default_rng(3)
    size = 4 if name == "coreference" else 32
    for _ in range(task.steps):
        examples = [training[i] for i in generator.choice(len(training), size, replace=False)]
        optimizer.zero_grad()
        network.loss(batch_of(examples, task, tables, place)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    network.eval()
    predicted = network.predict(batch_of(dev, task, tables, place))
    right = sum(prediction == task.answer(example) for prediction, example in zip(predicted, dev, strict=True))
    assert right >= 0.9 * len(dev)


def batch_of(examples: list[Any], task: Task, tables: Tables, place: str) -> Batch:
    batch = task.kind.make_batch(examples, tables)
    return batch if place == "none" else batch.with_elmo(layers_of)
