"""What a job must survive when nodes, networks and the controller fail; see ordeals.py."""

import time

from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.training import Training


def power_cuts(t: Training) -> None:
    cluster, job = t.cluster, t.submit(t.cluster.only("n7", "n8", "n9"))
    t.wait_for_step(3)
    (_, _), (worker, _) = t.rank(0), t.rank(1)
    t.survive("power cut of a node", lambda: cluster.power_off(worker))
    cluster.power_on(worker)
    batch = job.facts()["BatchHost"]
    t.survive("power cut of the batch node", lambda: cluster.power_off(batch))
    t.stop()
    assert_nodes_failed(t, 2)


def network_cut_and_heal(t: Training) -> None:
    """Cut the network of the batch node: its ranks, and those that wait for them, meet the job's next start."""
    cluster, job = t.cluster, t.submit(t.cluster.only("n10", "n11", "n12"))
    t.wait_for_step(3)
    batch = job.facts()["BatchHost"]
    t.survive("network cut", lambda: cluster.cut(batch))
    wait_until(lambda: not t.processes(batch), "nothing trains there any more", t.log)
    cluster.heal(batch)
    t.stop()
    assert_nodes_failed(t, 1)


def two_writers(t: Training) -> None:
    """Kill the slurmd of both nodes: the controller starts the job again elsewhere, while the ranks live on.

    The ranks are suspended until the folder has another writer, and then continue to train and save.
    """
    cluster = t.cluster
    t.submit(cluster.only("n13", "n14", "n15", "n16"), settings=("checkpoint.every_steps=1",))
    t.wait_for_step(3)
    old = [t.rank(0), t.rank(1)]

    def cut_off() -> None:
        for node, pid in old:
            cluster.run(node, "pkill", "-9", "-x", "slurmd")
            cluster.run(node, "kill", "-STOP", str(pid))
        wait_until(lambda: t.holder()["restart"] or t.fail_if_over(), "the folder has another writer", t.log)
        for node, pid in old:
            cluster.run(node, "kill", "-CONT", str(pid))

    t.survive("slurmd killed", cut_off)
    wait_until(lambda: gave_up_the_folder(t), "the old rank 0 ends by itself", t.log)
    wait_until(lambda: not any(t.processes(node) for node, _ in old), "and so does the other", t.log)
    t.stop()
    assert_nodes_failed(t, 1)


def a_controller_away(t: Training) -> None:
    """Stop the controller for a minute, with a time limit meanwhile, on a cluster of its own."""
    with Cluster(2) as t.cluster:
        job = t.submit()
        t.survive("controller away for a minute, and a signal meanwhile", lambda: lose_controller(t))
        t.stop()
    assert t.reasons()[0] == "time limit (SIGUSR1)", job


def lose_controller(t: Training) -> None:
    node, pid = t.rank(0)
    t.cluster.stop_controller()
    t.cluster.run(node, "kill", "-USR1", str(pid))
    time.sleep(60)
    t.cluster.start_controller()


def assert_nodes_failed(t: Training, times: int) -> None:
    """Check for at least this many node failures, and at most two more restarts, which Slurm itself can cause.

    An srun that was cut off gives up its step, or a controller ends a step or job a second time, late. Both may affect
    the next start, which has the same numbers. And Slurm 22.05 does not give GPUs at once to a job whose nodes have all
    failed.
    """
    reasons = t.reasons()
    assert reasons[0] == "node failure or preemption" and len(reasons) <= times + 2, reasons
    assert reasons.count("node failure or preemption") >= times, reasons


def gave_up_the_folder(t: Training) -> bool:
    """Return whether an earlier rank 0 saw, in its watchdog or before a save, that the folder has another writer."""
    return "TAKEN OVER" in t.rank_log() or "is written by a later start of this run" in t.rank_log()
