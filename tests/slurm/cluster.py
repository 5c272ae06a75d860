"""A real Slurm of a few nodes on this machine, with namespaces for machines; it starts in a second and always stops.

Each node has its own processes, host name, network and one folder of its own. All other files are shared, as on a
cluster. Nodes can lose power and their network.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "unshare", "nsenter", "ip", "pgrep")
GPUS, CPUS, MEMORY_MB = 8, 16, 64_000
# Never reached when all is well, however busy the machine is.
WAIT_SECONDS = float(os.environ.get("ELMO_TEST_WAIT", "300"))
os.environ["PATH"] += ":/usr/sbin:/sbin"


def why_not() -> str | None:
    """Return what this machine lacks for a cluster, None if nothing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no Slurm here ({', '.join(missing)} missing): as root on Debian: sh tests/install_slurm.sh"
    probe = ["unshare", "--mount", "--uts", "--pid", "--net", "--fork", "sh", "-c", "ip link add x type bridge"]
    done = subprocess.run(probe, capture_output=True, text=True)
    return None if done.returncode == 0 else f"no Slurm here: namespaces are not allowed ({done.stderr.strip()})"


@dataclass
class Cluster:
    num_nodes: int
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="elmo-slurm-")))
    _processes: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    # It closes when this process ends, and that ends all others.
    _lifeline: tuple[int, int] = field(default_factory=os.pipe)

    @property
    def nodes(self) -> list[str]:
        return [f"n{number}" for number in range(1, self.num_nodes + 1)]

    @property
    def local(self) -> Path:
        """Return the folder of which each node has its own."""
        return self.folder / "local"

    @property
    def small_disk(self) -> Path:
        """Return a disk of a few megabytes that all nodes share."""
        return self.folder / "small"

    def __enter__(self) -> "Cluster":
        try:
            self._configure()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "small", str(self.small_disk)], check=True)
            self._start_munge()
            for name in ("login", *self.nodes):
                self.power_on(name)
            wait_until(lambda: self.states() == {"idle"}, "all nodes are idle", self.logs)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        for name in [*self.nodes, "login"]:
            self.power_off(name)
        for end in self._lifeline:
            os.close(end)
        munged = self._processes.pop("munged", None)
        if munged is not None:
            munged.wait()
        subprocess.run(["umount", "-l", str(self.small_disk)])
        shutil.rmtree(self.folder, ignore_errors=True)

    def _address(self, name: str) -> str:
        # RFC 2544: these packets never leave the machine.
        return "198.18.77.254" if name == "login" else f"198.18.77.{name[1:]}"

    def _configure(self) -> None:
        self.folder.chmod(0o755)  # munge refuses a socket in a folder that not everybody may enter
        for name in ("run", "log", "state", "munge", "local", "disks", "dev", "small"):
            (self.folder / name).mkdir()
        hosts = [f"{self._address(name)} {name}\n" for name in ("login", *self.nodes)]
        (self.folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(hosts))
        lines = (HERE / "slurm.conf").read_text().format(
            folder=self.folder, nodes=self.num_nodes, gpus=GPUS, login=self._address("login")
        )  # fmt: skip
        for number, name in enumerate(self.nodes):
            (self.folder / "spool" / name).mkdir(parents=True)
            lines += (
                f"NodeName={name} NodeAddr={self._address(name)} CPUs={CPUS} RealMemory={MEMORY_MB} "
                f"Gres=gpu:{GPUS} Weight={number + 1} State=UNKNOWN\n"  # Slurm takes the first nodes first
            )
        (self.folder / "slurm.conf").write_text(lines)
        for number in range(GPUS):
            os.mknod(self.folder / "dev" / f"gpu{number}", 0o20666, os.makedev(1, 3))
        files = f"{self.folder}/dev/gpu[0-{GPUS - 1}]"
        (self.folder / "gres.conf").write_text(f"NodeName=n[1-{self.num_nodes}] Name=gpu File={files}\n")

    def _start_munge(self) -> None:
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"key-file": key, "socket": key.with_name("socket"), "pid-file": key.with_name("pid"),
                 "log-file": key.with_name("log"), "seed-file": key.with_name("seed")}  # fmt: skip
        command = ["munged", "-F", *(f"--{option}={path}" for option, path in files.items())]
        self._launch("munged", ["sh", "-c", '"$@" </dev/null & read -r _; kill -9 $!', "-", *command])
        wait_until(files["socket"].exists, "munged listens", self.logs)

    def _launch(self, name: str, command: list[str]) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=self._lifeline[0], stdout=log, stderr=log, start_new_session=True,
                env={k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))},
            )  # fmt: skip

    def power_on(self, name: str) -> None:
        ready = self.folder / "run" / f"{name}.ready"
        ready.unlink(missing_ok=True)
        spaces = ["--mount", "--propagation", "slave", "--uts", "--pid", "--net", "--fork", "--kill-child=KILL"]
        script = ["bash", str(HERE / "node.sh"), str(self.folder), name, self._address(name)]
        self._launch(name, ["unshare", *spaces, *script])
        wait_until(lambda: self._first_process(name), f"{name} starts", self.logs)
        if name != "login":
            on_switch = ["nsenter", "-t", str(self._first_process("login")), "-n", "ip", "link"]
            subprocess.run([*on_switch, "del", f"to-{name}"], stderr=subprocess.DEVNULL)
            cable = ["add", f"to-{name}", "master", "switch", "type", "veth", "peer", "name", "eth0"]
            subprocess.run([*on_switch, *cable, "netns", str(self._first_process(name))], check=True)
            subprocess.run([*on_switch, "set", f"to-{name}", "up"], check=True)
        wait_until(ready.exists, f"{name} is ready", self.logs)

    def power_off(self, name: str) -> None:
        """End everything on the node at once, as in a power cut."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()  # unshare takes process 1 of the node with it, and process 1 takes all others
            process.wait()

    def stop_controller(self) -> None:
        self.run("login", "pkill", "-9", "-x", "slurmctld")

    def start_controller(self) -> None:
        self.run("login", "slurmctld", "-f", str(self.folder / "slurm.conf"))

    def cut(self, node: str) -> None:
        """Cut the node from the network; it continues to run."""
        self.run("login", "ip", "link", "set", f"to-{node}", "down")

    def heal(self, node: str) -> None:
        self.run("login", "ip", "link", "set", f"to-{node}", "up")

    def _first_process(self, name: str) -> int | None:
        """Return the id that process 1 of a node has outside the node."""
        parent = self._processes[name].pid
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            children = []
        assert self._processes[name].poll() is None, f"{name} died\n{self.logs()}"
        return int(children[0]) if children else None

    def run(self, name: str, *command: str, check: bool = True, **options: Any) -> str:
        """Run a command on a node; return what it printed."""
        first = self._first_process(name)
        enter = ["nsenter", "-t", str(first), "-m", "-u", "-p", "-n", f"--wd={options.pop('cwd', '/')}"]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH"))}
        environment |= {"SLURM_CONF": str(self.folder / "slurm.conf"), **options.pop("environment", {})}
        done = subprocess.run(
            [*enter, *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
            timeout=WAIT_SECONDS, **options,
        )  # fmt: skip
        assert done.returncode == 0 or not check, f"{command} on {name}: code {done.returncode}\n{done.stdout}"
        return done.stdout

    def submit(self, *arguments: str, **options: Any) -> "Job":
        """Submit a job by sbatch on the login node."""
        return Job(self, int(self.run("login", "sbatch", "--parsable", *arguments, **options).split()[-1]))

    def only(self, *nodes: str) -> str:
        """Return an option of sbatch that lets a job have these nodes only."""
        return f"--exclude={','.join(node for node in self.nodes if node not in nodes)}"

    @property
    def is_up(self) -> bool:
        return "login" in self._processes

    def states(self) -> set[str]:
        """Return the states of all nodes: idle, down, ..."""
        return set(self.run("login", "sinfo", "-h", "-N", "-p", "main", "-o", "%t", check=False).split())

    def logs(self) -> str:
        """Return the ends of all logs, for the message of a failing test."""
        files = sorted((self.folder / "log").glob("*"))
        return "\n".join(f"--- {f.name}\n" + "\n".join(f.read_text().splitlines()[-15:]) for f in files)


@dataclass
class Job:
    cluster: Cluster
    id: int

    def facts(self) -> dict[str, str]:
        """Return what `scontrol show job` prints: JobState, Restarts, NodeList, ..."""
        for _ in range(20):
            printed = self.cluster.run("login", "scontrol", "-o", "show", "job", str(self.id), check=False)
            if "JobState=" in printed:
                break
            time.sleep(0.5)  # the controller is busy or down
        return dict(re.findall(r"(\S+?)=(\S*)", printed))

    @property
    def state(self) -> str:
        return self.facts().get("JobState", "")

    @property
    def restarts(self) -> int:
        return int(self.facts().get("Restarts", 0))

    def cancel(self, *options: str) -> None:
        self.cluster.run("login", "scancel", *options, str(self.id))

    def update(self, setting: str) -> None:
        self.cluster.run("login", "scontrol", "update", f"JobId={self.id}", setting)

    def has_ended(self) -> bool:
        return self.state in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def wait_until(true: Callable[[], Any], what: str, otherwise: Callable[[], str] = str) -> float:
    """Wait until `true()`; return the seconds it took. Fail with the text of `otherwise` if it never becomes true."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < WAIT_SECONDS, f"not so: {what}\n{otherwise()}"
        time.sleep(0.05)
    return time.monotonic() - started
