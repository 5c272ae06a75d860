"""What a job must survive. Each function returns when its run has ended, and uses nodes of its own."""

import json
import shutil
import time

from tests.slurm.cluster import Cluster, wait_until
from tests.slurm.outages import a_controller_away, network_cut_and_heal, power_cuts, two_writers
from tests.slurm.training import ELMO, Training, node_list
from tests.train import runs


def time_limits(t: Training) -> None:
    """Let one time limit come by itself, then send its signal to the batch script three times, as Slurm does."""
    job = t.submit(node_list("n1", "n2"))
    t.wait_for_step(1)
    (t.folder / "config.yaml").write_text("no: config\n")  # the config as it was submitted counts
    t.survive("time limit", lambda: let_the_time_end(t))
    for number in range(2, 5):
        t.survive(f"time limit, {number}", lambda: job.cancel("--batch", "--signal=USR1"))
    t.stop()
    assert t.reasons().count("time limit (SIGUSR1)") == 4


def bad_ranks(t: Training) -> None:
    t.submit(node_list("n1", "n2"), settings=("train.hang_seconds=20",))
    t.survive("signal to one rank only", lambda: t.signal_rank(1, "USR1"))
    t.survive("a rank killed with -9", lambda: t.signal_rank(1, "KILL"))
    t.survive("a hung rank", lambda: t.signal_rank(1, "STOP"))
    t.stop()
    # See outages.assert_nodes_failed.
    asked, killed, hung = [reason for reason in t.reasons() if "SIGTERM" not in reason]
    assert asked == "time limit (SIGUSR1)" and killed.startswith("crash") and hung == "a rank hung"
    logs = "".join(path.read_text(errors="replace") for path in t.run_dir.glob("logs/*"))
    assert "HUNG: no step ended" in logs and "Current thread" in logs  # the stacks of the rank that waited in vain


def preemption_without_grace(t: Training) -> None:
    t.submit(node_list("n3", "n4"))
    t.survive("preemption without grace", lambda: preempt(t.cluster, "n3"))
    t.stop()
    assert "preemption" in t.reasons()[0]


def preemption_with_grace_then_scancel(t: Training) -> None:
    job = t.submit(node_list("n5", "n6"), "--partition=grace")
    t.survive("preemption with grace", lambda: preempt(t.cluster, "n5"))
    assert "preemption" in t.reasons()[0]
    t.wait_for_step(t.step + 5)
    (t.run_dir / "save").touch()
    wait_until(lambda: not (t.run_dir / "save").exists(), "the file save is gone", t.log)
    assert runs.saved_steps(t.run_dir)[-1] <= t.step
    before = time.monotonic()
    job.cancel()
    assert t.wait_for_end() == "CANCELLED", t.log()
    wait_until(lambda: "stopped SIGTERM" in t.batch_log(), "the batch script saw the end", t.log)
    t.took["scancel"] = round(time.monotonic() - before, 1)
    assert runs.saved_steps(t.run_dir)[-1] == t.step
    assert job.restarts == len(t.reasons())
    t.submit(node_list("n5", "n6"))
    t.stop()


def fewer_and_more_nodes(t: Training) -> None:
    """Run on two nodes, then one with two processes and no GPUs, then four, once other ordeals have left them."""
    one = ("--nodes=1", "--gpus-per-node=0", "--ntasks-per-node=2", "--mincpus=2")
    for options, nodes in ((("--nodes=2",), 2), (one, 1), (("--nodes=4",), 4)):
        job = t.submit(*options, t.cluster.only("n1", "n2", "n17", "n18"))
        before = time.monotonic()
        t.stop()
        t.took[f"file stop, {nodes} nodes"] = round(time.monotonic() - before, 1)
        assert job.facts()["NumNodes"] == str(nodes), job.facts()
        assert runs.saved_steps(t.run_dir)[-1] == t.step and not (t.run_dir / "stop").exists()
    assert t.reasons() == []


def a_size_that_does_not_divide(t: Training) -> None:
    job = t.submit("--nodes=1-3", t.cluster.only("n1", "n2", "n17"))
    assert t.wait_for_end() == "FAILED", t.log()
    assert "data.lanes=8 does not divide over 3 ranks (3 nodes x 1); use 1 or 2 or 4 or 8 ranks" in t.batch_log()
    assert job.restarts == 0 and not (t.run_dir / "logs").exists()


def a_full_disk(t: Training) -> None:
    t.folder.mkdir()
    t.run_dir.symlink_to(t.cluster.small_disk)
    job = t.submit(node_list("n1", "n2"))
    wait_until(lambda: runs.saved_steps(t.run_dir), "a checkpoint", t.log)
    filler = t.cluster.small_disk / "filler"
    filler.write_bytes(b"")
    with filler.open("ab") as file:
        # Enough for metrics and logs, not for a checkpoint.
        while shutil.disk_usage(t.cluster.small_disk).free > 150_000:
            file.write(b"\0" * 50_000)
            file.flush()
    wait_until(lambda: t.rank_log().count("NO CHECKPOINT at step") >= 2, "saves fail with an error", t.log)
    kept = runs.saved_steps(t.run_dir)[-1]
    assert runs.newest(t.run_dir)["global_step"] == kept < t.step
    filler.unlink()
    wait_until(lambda: runs.saved_steps(t.run_dir)[-1] > kept, "saves again", t.log)
    t.stop()
    assert job.restarts == 0


def a_corrupted_staged_shard(t: Training) -> None:
    job = t.submit(node_list("n1", "n2"), settings=(f"data.stage_dir={t.cluster.local}/stage",))
    t.wait_for_step(3)
    (shard, *_) = sorted((t.cluster.folder / "disks" / "n2" / "stage").glob("*/train-*.tar"))
    content = bytearray(shard.read_bytes())
    content[2000] ^= 1
    shard.unlink()  # a process that has the file open keeps the good one
    shard.write_bytes(content)
    t.survive("a corrupted staged shard on one node", lambda: job.cancel("--signal=USR1"))
    assert f"n2: {shard.name} on this node was damaged and is copied again" in t.batch_log()
    t.stop()


def a_node_with_a_corrupted_dataset(t: Training) -> None:
    local = t.cluster.local / "dataset"
    for node in ("n19", "n20", "n21"):
        shutil.copytree(t.dataset, t.cluster.folder / "disks" / node / "dataset")
    (bad, *_) = sorted((t.cluster.folder / "disks" / "n19" / "dataset").glob("train-*.tar"))
    bad.write_bytes(bad.read_bytes()[:-512])
    t.dataset = local
    before = time.monotonic()
    job = t.submit(t.cluster.only("n19", "n20", "n21"))
    t.stop()
    assert job.facts()["ExcNodeList"].endswith("n19"), job.facts()
    assert t.reasons() == ["n19 excluded: not fit"] and "n19: it cannot read the dataset" in t.batch_log()
    start = json.loads((t.run_dir / "start.json").read_text())
    t.took["a node with a bad shard is excluded"] = round(
        start["unix_time"] - time.time() + time.monotonic() - before, 1
    )


def crashes_in_a_row(t: Training) -> None:
    """Start a training that never makes a step: after three crashes in a row the job ends.

    Its first start has no time left after preflight, and at its second start no node answers.
    """
    t.folder.mkdir()
    elmo = t.folder / "bin" / "elmo"
    elmo.parent.mkdir()
    elmo.write_text(
        f"""#!/bin/bash
        [ "$1" = pretrain ] && exit 9
        case "$SLURM_RESTART_COUNT" in
            "") [ "$SLURM_PROCID" != 0 ] || scancel --batch --signal=USR1 "$SLURM_JOB_ID" ;;
            1) exit 8 ;;
        esac
        exec {ELMO} "$@"
        """
    )
    elmo.chmod(0o755)
    elmo.with_name("python").symlink_to(ELMO.with_name("python"))
    job = t.submit(node_list("n1", "n2"), elmo=elmo)
    assert t.wait_for_end() == "FAILED", t.log()
    before = ["time limit (SIGUSR1), before training", "no node answered"]
    # The code is 9, or 143 if srun ended the other rank before it crashed by itself (slurm/requeue.py).
    crashed = {"crash, code 9", "crash of a rank, whose code stands in the job's log"}
    assert t.reasons()[:2] == before and len(t.reasons()) == 4 and set(t.reasons()[2:]) <= crashed, t.log()
    assert "Exited with exit code 9" in t.batch_log() and job.restarts == 4, t.log()
    assert "3 crashes in a row without a new checkpoint" in t.batch_log()


def preempt(cluster: Cluster, node: str) -> None:
    """Let a job of higher priority take a node for a few seconds."""
    cluster.submit("--partition=high", node_list(node), "--exclusive", "--output=/dev/null", "--wrap=sleep 3")


def let_the_time_end(t: Training) -> None:
    """Shorten the time limit until it is near; lengthen it again when the job is back in the queue."""
    assert t.job is not None
    run_time = t.job.facts()["RunTime"]  # [D-]HH:MM:SS
    hours, minutes, _ = run_time.split(":")
    t.job.update(f"TimeLimit={60 * int(hours) + int(minutes) + 2}")
    wait_until(lambda: t.job.restarts, "the job is queued again", t.log)
    t.job.update("TimeLimit=120")


BITWISE = [
    power_cuts, time_limits, bad_ranks, a_controller_away, preemption_with_grace_then_scancel, network_cut_and_heal,
    two_writers, preemption_without_grace, a_corrupted_staged_shard, a_full_disk, a_node_with_a_corrupted_dataset,
]  # fmt: skip
HOPELESS = [a_size_that_does_not_divide, crashes_in_a_row]
ALL = [*BITWISE, fewer_and_more_nodes, *HOPELESS]  # the longest first
