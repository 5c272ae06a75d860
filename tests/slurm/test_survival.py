"""Two weeks in the life of a job of two nodes, in minutes: each run equals an undisturbed one bitwise.

The ordeals run side by side on nodes of their own, and end their runs when they are over. Then an undisturbed run
goes as far as the longest of them, with a checkpoint of every step.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from tests.slurm import ordeals
from tests.slurm.cluster import Cluster
from tests.slurm.training import Training, node_list, report
from tests.train import runs

pytestmark = [pytest.mark.ordeal, pytest.mark.slow, pytest.mark.timeout(2400), pytest.mark.xdist_group("slurm")]
AT_ONCE = 6  # trainings wait more than they compute
Ordeal = Callable[[Training], None]


class Ordeals:
    """Trainings that each go through an ordeal, side by side."""

    def __init__(self, cluster: Cluster, dataset: Path, folder: Path, wanted: list[Ordeal]) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self.trainings = {ordeal: Training(cluster, dataset, folder / ordeal.__name__) for ordeal in wanted}
        self._futures: dict[Ordeal, Future[None]] = {o: self._pool.submit(o, t) for o, t in self.trainings.items()}

    def after(self, ordeal: Ordeal) -> Training:
        self._futures[ordeal].result()
        return self.trainings[ordeal]

    def wait_for_all(self) -> int:
        """Wait for all trainings; return the furthest step of those that continued."""
        wait(self._futures.values())
        report(list(self.trainings.values()))
        return max(t.step for ordeal, t in self.trainings.items() if ordeal not in ordeals.HOPELESS)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


@pytest.fixture(scope="module")
def through(
    cluster: Cluster, dataset: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Ordeals]:
    selected = " ".join(item.name for item in request.session.items)
    wanted = [ordeal for ordeal in ordeals.ALL if ordeal.__name__ in selected]
    side_by_side = Ordeals(cluster, dataset, tmp_path_factory.mktemp("runs"), wanted)
    yield side_by_side
    side_by_side.close()


@pytest.fixture(scope="module")
def undisturbed(through: Ordeals, cluster: Cluster, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run without any disturbance; return its folder."""
    steps = through.wait_for_all()
    training = Training(cluster, dataset, tmp_path_factory.mktemp("undisturbed"))
    every_step = ("checkpoint.every_steps=1", "checkpoint.keep_last=1000000", f"train.max_steps={steps}")
    training.submit(node_list("n1", "n2"), settings=every_step)
    assert training.wait_for_end() == "COMPLETED", training.log()
    assert training.reasons() == [] and training.step == steps
    return training.run_dir


@pytest.mark.parametrize("ordeal", ordeals.BITWISE, ids=lambda ordeal: ordeal.__name__)
def test_a_disturbed_run_equals_an_undisturbed_one_bitwise(through: Ordeals, ordeal: Ordeal, undisturbed: Path) -> None:
    assert through.after(ordeal).differences(undisturbed) == []


@pytest.mark.parametrize("ordeal", [ordeals.fewer_and_more_nodes], ids=lambda ordeal: ordeal.__name__)
def test_a_run_resumes_on_other_nodes_with_the_same_losses(through: Ordeals, ordeal: Ordeal, undisturbed: Path) -> None:
    changed = runs.losses(through.after(ordeal).run_dir)
    expected = runs.losses(undisturbed)
    assert list(changed) == list(range(1, len(changed) + 1)) and len(changed) > 6
    assert list(changed.values()) == pytest.approx([expected[step] for step in changed], abs=1e-3)


@pytest.mark.parametrize("ordeal", ordeals.HOPELESS, ids=lambda ordeal: ordeal.__name__)
def test_a_job_that_cannot_resume_ends(through: Ordeals, ordeal: Ordeal) -> None:
    through.after(ordeal)
