"""Decide for a batch script, before and after each start of a job, whether Slurm queues the job again.

requeue.py begin RUN_DIR                    exit with code 0, or with 1 if the job was started too often
requeue.py exclude-bad-nodes RUN_DIR CODE   after preflight: exit with code 0, or queue the job again without bad nodes
requeue.py requeue-before-training RUN_DIR  queue the job again, because its time limit came before training
requeue.py end RUN_DIR CODE                 after training: queue the job again if training must resume, or exit

RUN_DIR/restarts.jsonl records each restart. This file uses the standard library only.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_RESTARTS = int(os.environ.get("ELMO_MAX_RESTARTS", "200"))
MAX_CRASHES = int(os.environ.get("ELMO_MAX_CRASHES", "3"))  # in a row, without a new checkpoint between them
CONTROLLER_SECONDS = 3600.0  # wait so long for a controller that does not answer
EXIT_USER_ERROR, EXIT_TAKEN_OVER = 2, 76
# After one rank crashes, srun --kill-on-bad-exit ends the other ranks with this code and hides the crashed rank's code.
EXIT_ENDED_BY_SRUN = 143
SIGNALS = {"SIGUSR1": "time limit (SIGUSR1)", "SIGTERM": "preemption (SIGTERM)"}
JOB, RESTART = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def main() -> int:
    name, run_dir, codes = sys.argv[1], Path(sys.argv[2]), [int(code) for code in sys.argv[3:]]
    commands: dict[str, Callable[..., int]] = {"begin": begin, "exclude-bad-nodes": exclude_bad_nodes, "end": end}
    commands["requeue-before-training"] = requeue_before_training
    return commands[name](run_dir, *codes)


def begin(run_dir: Path) -> int:
    """Record a restart that Slurm made by itself. Return 0, or 1 if the job was started too often."""
    run_dir.mkdir(parents=True, exist_ok=True)
    if RESTART and not any(r["job"] == JOB and r["restart"] == RESTART for r in restarts(run_dir)):
        record_restart(run_dir, "node failure or preemption", RESTART)
    if RESTART > MAX_RESTARTS:
        log(f"restarted {RESTART} times, more than ELMO_MAX_RESTARTS={MAX_RESTARTS}: the job ends")
        return 1
    return 0


def exclude_bad_nodes(run_dir: Path, code: int) -> int:
    """Queue the job again without the nodes that failed preflight; return 0 if every node passed.

    code: of preflight. RUN_DIR/preflight holds one file for each node. A node without a file failed too, unless no node
    has a file.
    """
    nodes = run("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    checks = {node: read_node_check(run_dir / "preflight" / f"{JOB}.{RESTART}" / f"{node}.json") for node in nodes}
    signals = [c["signal"] for c in checks.values() if c and c.get("signal")]
    bad = {node: (c["faults"] if c else ["it did not answer"]) for node, c in checks.items() if not c or c["faults"]}
    if not bad and not signals:
        return 0
    if not is_current_start():
        return 1
    if signals:
        return requeue(run_dir, f"{SIGNALS.get(signals[0], signals[0])}, before training")
    for node, faults in bad.items():
        log(f"{node}: {'; '.join(faults)}")
    if not any(checks.values()) and code != EXIT_USER_ERROR:
        return after_crash(run_dir, "no node answered", "preflight")  # perhaps Slurm could not start the step
    may_pass = code != EXIT_USER_ERROR and all(not check or check.get("may_pass") is True for check in checks.values())
    if len(bad) == len(nodes) and may_pass:
        return after_crash(run_dir, "no node could read the dataset", "preflight")
    if len(bad) == len(nodes):
        log("no node is fit: every node reported a fault, so the job ends; fix the faults listed above")
        return 1
    return exclude_nodes(run_dir, list(bad))


def exclude_nodes(run_dir: Path, bad: list[str]) -> int:
    """Queue the job again without the nodes in `bad`."""
    before = job_info().get("ExcNodeList", "(null)")
    names = ",".join([*([before] if before != "(null)" else []), *bad])
    record_restart(run_dir, f"{', '.join(bad)} excluded: not fit", RESTART + 1)
    log(f"the job is queued again without {', '.join(bad)}")
    # requeuehold sends SIGTERM. If that ended this process, the job would stay on hold.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    run_until_answered("scontrol", "requeuehold", JOB)
    run_until_answered("scontrol", "update", f"JobId={JOB}", f"ExcNodeList={names}")
    run_until_answered("scontrol", "release", JOB)
    return 1  # the exit code of a job that is queued again does not matter


def requeue_before_training(run_dir: Path) -> int:
    """Queue the job again, because its time limit came before training."""
    return requeue(run_dir, f"{SIGNALS['SIGUSR1']}, before training") if is_current_start() else 1


def end(run_dir: Path, code: int) -> int:
    """Queue the job again if training must resume; else return the job's exit code. code: of the training."""
    ended = end_of_this_start(run_dir)
    how, why = ended.get("how"), ended.get("why", "")
    log(f"training ended with code {code}: {how or 'it wrote no end.json'} {why}")
    if how == "finished" and code == 0:
        return 0
    if not is_current_start():
        return 1
    if how == "stopped":
        return 0 if why == "stop" else requeue(run_dir, SIGNALS.get(why, why))
    if how in ("diverged", "refused") or code == EXIT_USER_ERROR:
        return code or 1
    of_a_rank = "crash of a rank, whose code stands in the job's log"
    reasons = {EXIT_TAKEN_OVER: "taken over", EXIT_ENDED_BY_SRUN: of_a_rank}
    return after_crash(run_dir, "a rank hung" if how == "hung" else reasons.get(code, f"crash, code {code}"))


def after_crash(run_dir: Path, reason: str, phase: str = "training") -> int:
    """Queue the job again, unless it crashed too often in this phase without a new checkpoint."""
    in_a_row = 1
    for record in reversed(restarts(run_dir)):
        if record["job"] != JOB or record.get("crash") != phase or record["step"] != newest_step(run_dir):
            break
        in_a_row += 1
    if in_a_row >= MAX_CRASHES:
        log(f"{in_a_row} crashes in a row without a new checkpoint, ELMO_MAX_CRASHES={MAX_CRASHES}: the job ends")
        return 1
    return requeue(run_dir, reason, crash=phase)


def requeue(run_dir: Path, reason: str, **more: Any) -> int:
    """Queue the job again and record the reason. more: fields to add to the record."""
    record_restart(run_dir, reason, RESTART + 1, **more)
    log(f"the job is queued again: {reason}")
    run_until_answered("scontrol", "requeue", JOB)
    return wait_for_slurm()


def wait_for_slurm() -> int:
    """Wait until Slurm ends this process. If this process ended first, the job would end too."""
    time.sleep(600)
    log("Slurm did not queue the job again within 10 minutes: the job ends; submit it again to resume")
    return 1


def is_current_start() -> bool:
    """Return whether the job is running and this process belongs to its latest start.

    This process does not belong to it if Slurm cancelled the job or queued it again, or if a later start already runs
    on other nodes.
    """
    now = job_info()
    state, starts = now.get("JobState"), int(now.get("Restarts", 0))
    if starts != RESTART or state != "RUNNING":
        log(f"this start of the job is over, Slurm decides: state {state}, {starts} restarts")
        return False
    return True


def job_info() -> dict[str, str]:
    """Return the fields of `scontrol show job`."""
    output = run_until_answered("scontrol", "-o", "show", "job", JOB)
    return dict(word.split("=", 1) for word in output.split() if "=" in word)


def run_until_answered(*command: str) -> str:
    """Run a command, again and again until the controller answers; return its output, "" if it fails."""
    deadline = time.monotonic() + CONTROLLER_SECONDS
    while True:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        log(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        if time.monotonic() > deadline or "nvalid" in done.stderr:
            return ""
        time.sleep(5)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def newest_step(run_dir: Path) -> int:
    """Return the step of the newest recorded checkpoint, 0 if there is none."""
    names = [re.fullmatch(r"step-([0-9]+)", path.stem) for path in run_dir.glob("checkpoints/step-*.json")]
    return max((int(name[1]) for name in names if name), default=0)


def record_restart(run_dir: Path, reason: str, restart: int, **more: Any) -> None:
    """Append one line to restarts.jsonl. restart: its number within the job. more: fields to add."""
    record: dict[str, Any] = {"unix_time": round(time.time(), 1), "job": JOB, "restart": restart, "reason": reason}
    record |= {"step": newest_step(run_dir), **more}
    try:
        with (run_dir / "restarts.jsonl").open("a+b") as file:
            if file.tell():  # a kill may have cut the last line short: start a new one
                file.seek(-1, os.SEEK_END)
                file.write(b"" if file.read(1) == b"\n" else b"\n")
            file.write(json.dumps(record).encode() + b"\n")
    except OSError as error:
        log(f"{run_dir / 'restarts.jsonl'} cannot be written: {error}")


def restarts(run_dir: Path) -> list[dict[str, Any]]:
    """Return the records of restarts.jsonl, oldest first, without lines that are cut short or damaged."""
    path = run_dir / "restarts.jsonl"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    records = [parse(line) for line in lines]
    return [r for r in records if has(r, job=str, restart=int, step=int)]


def read_node_check(path: Path) -> dict[str, Any] | None:
    """Return the result that preflight wrote for a node, None if it cannot be read."""
    value = read(path)
    good = has(value, faults=list) and all(isinstance(fault, str) for fault in value["faults"])
    return value if good and isinstance(value.get("signal"), str | None) else None


def end_of_this_start(run_dir: Path) -> dict[str, Any]:
    """Return end.json if this start of the job wrote it, else {}."""
    value = read(run_dir / "end.json")
    slurm = value.get("slurm")
    if not has(value, how=str) or not has(slurm, job_id=str) or not isinstance(value.get("why", ""), str):
        return {}
    return value if (slurm["job_id"], str(slurm.get("restart_count", 0))) == (JOB, str(RESTART)) else {}


def has(value: Any, **types: type) -> bool:
    """Return whether a JSON value is an object that has these members with these types."""
    return isinstance(value, dict) and all(type(value.get(name)) is kind for name, kind in types.items())


def read(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, {} if there is none."""
    try:
        return parse(path.read_text(errors="replace"))
    except OSError:
        return {}


def parse(text: str) -> dict[str, Any]:
    """Return the JSON object in a text, {} if there is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def log(message: str) -> None:
    print(f"{time.strftime('%F %T')} {JOB}.{RESTART}: {message}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
