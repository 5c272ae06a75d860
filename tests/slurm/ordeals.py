"""What a job goes through; each returns when its run has ended. Nodes are its own, so that ordeals do not meet."""

import json
import shutil
import time
from pathlib import Path

from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.training import ELMO, Training, node_list
from tests.train import runs

OTHERS = "n1,n2,n3,n4"  # nodes that the ordeals with spare nodes keep off
SPARES = "n5,n6,n7,n8"


def time_limits_and_bad_ranks(t: Training) -> None:
    job = t.submit(node_list("n1", "n2"))
    t.wait_for_step(1)
    (t.folder / "config.yaml").write_text("no: config\n")  # the one that was submitted counts
    for number in range(1, 5):
        t.survive(f"time limit, {number}", lambda: job.cancel("--signal=USR1"))
    t.survive("signal to one rank only", lambda: t.signal_rank(1, "USR1"))
    t.survive("a rank killed with -9", lambda: t.signal_rank(1, "KILL"))
    t.survive("a hung rank", lambda: t.signal_rank(1, "STOP"))
    t.survive("preemption without grace", lambda: preempt(t.cluster, "main", "n1"))
    t.stop()
    signals, (killed, hung, preempted) = t.reasons()[:5], t.reasons()[5:]
    assert signals == ["time limit (SIGUSR1)"] * 5
    assert killed.startswith("crash") and hung == "a rank hung" and "preemption" in preempted
    logs = "".join(path.read_text(errors="replace") for path in t.run_dir.glob("logs/*"))
    assert "HUNG: no step ended" in logs and "Current thread" in logs  # the stacks of the rank that waited in vain


def preemption_with_grace_then_scancel(t: Training) -> None:
    job = t.submit(node_list("n3", "n4"), "--partition=grace")
    t.survive("preemption with grace", lambda: preempt(t.cluster, "grace", "n3"))
    (reason,) = t.reasons()
    assert "preemption" in reason
    t.wait_for_step(t.step + 5)
    (t.run_dir / "save").touch()
    wait_until(lambda: not (t.run_dir / "save").exists(), "save is obeyed", t.log)
    assert runs.saved_steps(t.run_dir)[-1] <= t.step
    before = time.monotonic()
    job.cancel()
    assert t.wait_for_end() == "CANCELLED", t.log()
    wait_until(lambda: "stopped SIGTERM" in t.said(), "the batch script saw the end", t.log)
    t.took["scancel"] = round(time.monotonic() - before, 1)
    assert runs.saved_steps(t.run_dir)[-1] == t.step
    assert job.restarts == 1
    t.submit(node_list("n3", "n4"))
    t.stop()


def fewer_and_more_nodes(t: Training) -> None:
    for nodes, tasks in ((2, 1), (1, 1)):
        t.submit(f"--nodes={nodes}", f"--ntasks-per-node={tasks}", f"--exclude={OTHERS},{SPARES},n13,n14")
        before = time.monotonic()
        t.stop()
        t.took[f"file stop, {nodes} nodes"] = round(time.monotonic() - before, 1)
        assert runs.saved_steps(t.run_dir)[-1] == t.step and not (t.run_dir / "stop").exists()
    t.submit("--nodes=1-2", "--ntasks-per-node=2", node_list("n9", "n10"))
    t.stop()


def a_size_that_does_not_divide(t: Training) -> None:
    job = t.submit("--nodes=3", f"--exclude={OTHERS},{SPARES}")
    assert t.wait_for_end() == "FAILED", t.log()
    assert "data.lanes=8 does not divide over 3 ranks (3 nodes x 1); use 1 or 2 or 4 or 8 ranks" in t.said()
    assert job.restarts == 0 and not (t.run_dir / "logs").exists()


def power_controller_and_network(t: Training) -> None:
    """Of a node, of the node of the batch script; the controller away for a minute; the network of the batch node."""
    cluster, job = t.cluster, t.submit(f"--exclude={OTHERS},n9,n10,n11,n12,n13,n14")
    t.wait_for_step(3)
    (_, _), (worker, _) = t.rank(0), t.rank(1)
    t.survive("power cut of a node", lambda: cluster.power_off(worker))
    cluster.power_on(worker)
    batch = job.facts()["BatchHost"]
    t.survive("power cut of the batch node", lambda: cluster.power_off(batch))
    cluster.power_on(batch)
    t.survive("controller away for a minute, and a signal meanwhile", lambda: lose_controller(t))
    batch = job.facts()["BatchHost"]
    t.survive("network cut", lambda: cluster.cut(batch))
    wait_until(lambda: not t.processes(batch), "nothing trains there any more", t.log)
    cluster.heal(batch)
    t.stop()
    reasons = t.reasons()
    assert [r for r in reasons if "SIGUSR1" in r] == ["time limit (SIGUSR1)"] and len(reasons) == 4, reasons


def two_writers(t: Training) -> None:
    """slurmd is killed: the controller starts the job again elsewhere, while the ranks train on.

    Two processes on one node: the ulps of a sum differ from those of one process on each of two nodes.
    """
    cluster, slowly = t.cluster, ("checkpoint.every_steps=5",)
    job = t.submit("--nodes=1", "--ntasks-per-node=2", f"--exclude={OTHERS},{SPARES},n9,n10,n11,n12", settings=slowly)
    t.wait_for_step(3)
    node = job.facts()["BatchHost"]
    t.survive("slurmd killed", lambda: cluster.run(node, "pkill", "-9", "-x", "slurmd"))
    wait_until(lambda: gave_up_the_folder(t), "the old rank 0 ends by itself", t.log)
    cluster.power_off(node)
    cluster.power_on(node)
    t.stop()


def a_full_disk(t: Training) -> None:
    t.folder.mkdir()
    t.run_dir.symlink_to(t.cluster.small_disk)
    job = t.submit(node_list("n9", "n10"))
    wait_until(lambda: runs.saved_steps(t.run_dir), "a checkpoint", t.log)
    filler = t.cluster.small_disk / "filler"
    filler.write_bytes(b"")
    with filler.open("ab") as file:
        while shutil.disk_usage(t.cluster.small_disk).free > 150_000:  # metrics and logs fit, a checkpoint does not
            file.write(b"\0" * 50_000)
            file.flush()
    wait_until(lambda: rank_log(t).count("NO CHECKPOINT at step") >= 2, "saves fail aloud", t.log)
    kept = runs.saved_steps(t.run_dir)[-1]
    assert runs.newest(t.run_dir)["global_step"] == kept < t.step
    filler.unlink()
    wait_until(lambda: runs.saved_steps(t.run_dir)[-1] > kept, "saves again", t.log)
    t.stop()
    assert job.restarts == 0


def a_staged_shard_gone_bad(t: Training) -> None:
    job = t.submit(node_list("n9", "n10"), settings=(f"data.stage_dir={t.cluster.local}/stage",))
    t.wait_for_step(3)
    (shard, *_) = sorted((t.cluster.folder / "disks" / "n10" / "stage").glob("*/train-*.tar"))
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.unlink()  # what has it open keeps the good one
    shard.write_bytes(content)
    t.survive("a staged shard gone bad on one node", lambda: job.cancel("--signal=USR1"))
    assert f"n10: {shard.name} on this node was damaged and is copied again" in t.said()
    t.stop()


def a_node_whose_dataset_is_bad(t: Training) -> None:
    local = t.cluster.local / "dataset"
    for node in ("n10", "n11", "n12"):
        shutil.copytree(t.dataset, t.cluster.folder / "disks" / node / "dataset")
    (bad, *_) = sorted((t.cluster.folder / "disks" / "n10" / "dataset").glob("train-*.tar"))
    bad.write_bytes(bad.read_bytes()[:-512])
    t.dataset = local
    before = time.monotonic()
    job = t.submit(f"--exclude={OTHERS},{SPARES},n9,n13,n14")
    t.stop()
    assert job.facts()["ExcNodeList"].endswith("n10"), job.facts()
    assert t.reasons() == ["n10 excluded: not fit"] and "n10: it cannot read the dataset" in t.said()
    start = json.loads((t.run_dir / "start.json").read_text())
    t.took["a node with a bad shard is excluded"] = round(
        start["unix_time"] - time.time() + time.monotonic() - before, 1
    )


def crashes_in_a_row(t: Training) -> None:
    """Of a training that never gets anywhere: three, then the job ends."""
    t.folder.mkdir()
    elmo = t.folder / "bin" / "elmo"
    elmo.parent.mkdir()
    elmo.write_text(f'#!/bin/sh\n[ "$1" = pretrain ] && exit 9\nexec {ELMO} "$@"\n')
    elmo.chmod(0o755)
    elmo.with_name("python").symlink_to(ELMO.with_name("python"))
    job = t.submit(node_list("n9", "n10"), elmo=elmo)
    assert t.wait_for_end() == "FAILED", t.log()
    assert job.restarts == 2 and t.reasons() == ["crash, code 9"] * 2
    assert "3 crashes in a row without a new checkpoint" in t.said()


def preempt(cluster: Cluster, partition: str, node: str) -> None:
    """A job of more weight takes a node for a few seconds."""
    cluster.submit("--partition=high", node_list(node), "--exclusive", "--output=/dev/null", "--wrap=sleep 3")


def lose_controller(t: Training) -> None:
    node, pid = t.rank(0)
    t.cluster.stop_controller()
    t.cluster.run(node, "kill", "-USR1", str(pid))
    time.sleep(60)
    t.cluster.start_controller()


def gave_up_the_folder(t: Training) -> bool:
    """Whether a rank 0 that had it before saw that it is another's: its watchdog, or when it was about to save."""
    return "TAKEN OVER" in rank_log(t) or "is written by a later start of this run" in rank_log(t)


def rank_log(t: Training) -> str:
    return Path(t.run_dir / "logs" / "rank-000.log").read_text(errors="replace")


BITWISE = [
    time_limits_and_bad_ranks, power_controller_and_network, preemption_with_grace_then_scancel,
    a_full_disk, a_staged_shard_gone_bad, a_node_whose_dataset_is_bad,
]  # fmt: skip
HOPELESS = [a_size_that_does_not_divide, crashes_in_a_row]
ALL = [*BITWISE, two_writers, fewer_and_more_nodes, *HOPELESS]  # the longest first
