"""What a batch script decides before and after each start of a job; told in RUN_DIR/restarts.jsonl. Python alone.

incarnation.py begin RUN_DIR        code 0, or 1 where the job was started too often
incarnation.py shun RUN_DIR CODE    after preflight: code 0; or the job is queued again without its bad nodes
incarnation.py late RUN_DIR         the time was up before training: the job is queued again
incarnation.py end RUN_DIR CODE     after training: the job is queued again where it is to go on; else its exit code
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MAX_RESTARTS = int(os.environ.get("ELMO_MAX_RESTARTS", "200"))
MAX_CRASHES = int(os.environ.get("ELMO_MAX_CRASHES", "3"))  # in a row, with no newer checkpoint than the one before
CONTROLLER_SECONDS = 3600.0  # a controller that does not answer is waited for
EXIT_USER_ERROR, EXIT_TAKEN_OVER = 2, 76
EXIT_ENDED_BY_SRUN = 143  # of the ranks that --kill-on-bad-exit ends after one crashed; it hides that one's code
SIGNALS = {"SIGUSR1": "time limit (SIGUSR1)", "SIGTERM": "preemption (SIGTERM)"}
JOB, RESTART = os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def main() -> int:
    name, run_dir, codes = sys.argv[1], Path(sys.argv[2]), [int(code) for code in sys.argv[3:]]
    return {"begin": begin, "shun": shun, "late": late, "end": end}[name](run_dir, *codes)


def begin(run_dir: Path) -> int:
    run_dir.mkdir(parents=True, exist_ok=True)
    if RESTART and not any(r["job"] == JOB and r["restart"] == RESTART for r in restarts(run_dir)):
        note(run_dir, "node failure or preemption", RESTART)
    if RESTART > MAX_RESTARTS:
        say(f"started again {RESTART} times, more than {MAX_RESTARTS}: that is enough (ELMO_MAX_RESTARTS)")
        return 1
    return 0


def shun(run_dir: Path, code: int) -> int:
    """Verdicts of the nodes stand in RUN_DIR/preflight; a node without one is bad too, unless all are."""
    nodes = run("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    verdicts = {node: verdict(run_dir / "preflight" / f"{JOB}.{RESTART}" / f"{node}.json") for node in nodes}
    signals = [v["signal"] for v in verdicts.values() if v and v.get("signal")]
    bad = {node: (v["faults"] if v else ["it did not answer"]) for node, v in verdicts.items() if not v or v["faults"]}
    if not bad and not signals:
        return 0
    if not is_mine_and_running():
        return 1
    if signals:
        requeue(run_dir, f"{SIGNALS.get(signals[0], signals[0])}, before training")
    for node, faults in bad.items():
        say(f"{node}: {'; '.join(faults)}")
    if not any(verdicts.values()) and code != EXIT_USER_ERROR:
        return after_crash(run_dir, "no node answered", "preflight")  # Slurm could not start the step, perhaps
    if len(bad) == len(nodes):
        say("no node is fit: the fault is not theirs, and the job ends; what each said stands above")
        return 1
    return exclude(run_dir, list(bad))


def exclude(run_dir: Path, bad: list[str]) -> int:
    before = facts().get("ExcNodeList", "(null)")
    names = ",".join([*([before] if before != "(null)" else []), *bad])
    note(run_dir, f"{', '.join(bad)} excluded: not fit", RESTART + 1)
    say(f"excludes {', '.join(bad)} and is queued again")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which the next command sends; the job would stay on hold
    persist("scontrol", "requeuehold", JOB)
    persist("scontrol", "update", f"JobId={JOB}", f"ExcNodeList={names}")
    persist("scontrol", "release", JOB)
    return 1  # Slurm has it as queued again: no code changes that


def late(run_dir: Path) -> int:
    return requeue(run_dir, f"{SIGNALS['SIGUSR1']}, before training") if is_mine_and_running() else 1


def end(run_dir: Path, code: int) -> int:
    ended = end_of_this_start(run_dir)
    how, why = ended.get("how"), ended.get("why", "")
    say(f"training ended with code {code}: {how or 'without a word'} {why}")
    if how == "finished" and code == 0:
        return 0
    if not is_mine_and_running():
        return 1
    if how == "stopped":
        return 0 if why == "stop" else requeue(run_dir, SIGNALS.get(why, why))
    if how in ("diverged", "refused") or code == EXIT_USER_ERROR:
        return code or 1
    reasons = {EXIT_TAKEN_OVER: "taken over",
               EXIT_ENDED_BY_SRUN: "crash of a rank, whose code stands in the job's log"}  # fmt: skip
    return after_crash(run_dir, "a rank hung" if how == "hung" else reasons.get(code, f"crash, code {code}"))


def after_crash(run_dir: Path, reason: str, of: str = "training") -> int:
    in_a_row = 1
    for record in reversed(restarts(run_dir)):
        if record.get("crash") != of or record["step"] != newest_step(run_dir):
            break
        in_a_row += 1
    if in_a_row >= MAX_CRASHES:
        say(f"{in_a_row} crashes in a row without a new checkpoint: that is enough (ELMO_MAX_CRASHES)")
        return 1
    return requeue(run_dir, reason, crash=of)


def requeue(run_dir: Path, reason: str, **more: Any) -> int:
    note(run_dir, reason, RESTART + 1, **more)
    say(f"is queued again: {reason}")
    persist("scontrol", "requeue", JOB)
    return wait_to_be_ended()


def wait_to_be_ended() -> int:
    """Slurm ends this process; to end by itself would end the job."""
    time.sleep(600)
    say("was to be queued again, and was not")
    return 1


def is_mine_and_running() -> bool:
    """Not where the job was cancelled, where Slurm queued it again, or where a later start of it runs elsewhere."""
    now = facts()
    state, starts = now.get("JobState"), int(now.get("Restarts", 0))
    if starts != RESTART or state != "RUNNING":
        say(f"leaves the rest to Slurm: state {state}, {starts} restarts")
        return False
    return True


def facts() -> dict[str, str]:
    said = persist("scontrol", "-o", "show", "job", JOB)
    return dict(word.split("=", 1) for word in said.split() if "=" in word)


def persist(*command: str) -> str:
    """What a command says once the controller answers."""
    deadline = time.monotonic() + CONTROLLER_SECONDS
    while True:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return done.stdout
        say(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        if time.monotonic() > deadline or "nvalid" in done.stderr:
            return ""
        time.sleep(5)


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def newest_step(run_dir: Path) -> int:
    names = [re.fullmatch(r"step-([0-9]+)", path.stem) for path in run_dir.glob("checkpoints/step-*.json")]
    return max((int(name[1]) for name in names if name), default=0)


def note(run_dir: Path, reason: str, restart: int, **more: Any) -> None:
    """One line for each restart: its number within the job, and why."""
    record = {"unix_time": round(time.time(), 1), "job": JOB, "restart": restart, "reason": reason,
              "step": newest_step(run_dir), **more}  # fmt: skip
    try:
        with (run_dir / "restarts.jsonl").open("a+b") as file:
            if file.tell():  # a line that a kill cut short does not swallow this one
                file.seek(-1, os.SEEK_END)
                file.write(b"" if file.read(1) == b"\n" else b"\n")
            file.write(json.dumps(record).encode() + b"\n")
    except OSError as error:
        say(f"restarts.jsonl cannot be written: {error}")


def restarts(run_dir: Path) -> list[dict[str, Any]]:
    """The records of restarts.jsonl, oldest first; a line that is none (cut short, damaged) is passed over."""
    path = run_dir / "restarts.jsonl"
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    records = [parse(line) for line in lines]
    return [r for r in records if has(r, job=str, restart=int, step=int)]


def verdict(path: Path) -> dict[str, Any] | None:
    """What preflight wrote of a node, None where it left nothing that can be read."""
    value = read(path)
    good = has(value, faults=list) and all(isinstance(fault, str) for fault in value["faults"])
    return value if good and isinstance(value.get("signal"), str | None) else None


def end_of_this_start(run_dir: Path) -> dict[str, Any]:
    """How the training ended by its own word; empty where this start left none."""
    value = read(run_dir / "end.json")
    slurm = value.get("slurm")
    if not has(value, how=str) or not has(slurm, job_id=str) or not isinstance(value.get("why", ""), str):
        return {}
    return value if (slurm["job_id"], str(slurm.get("restart_count", 0))) == (JOB, str(RESTART)) else {}


def has(value: Any, **types: type) -> bool:
    """Whether a value out of JSON is an object with these members of these types."""
    return isinstance(value, dict) and all(type(value.get(name)) is kind for name, kind in types.items())


def read(path: Path) -> dict[str, Any]:
    try:
        return parse(path.read_text(errors="replace"))
    except OSError:
        return {}


def parse(text: str) -> dict[str, Any]:
    """The JSON object in a text, an empty one where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def say(what: str) -> None:
    print(f"{time.strftime('%F %T')} {JOB}.{RESTART}: {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
