"""Runs of the real command on a tiny dataset: start them, watch them, and read what they wrote."""

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from data_prep.prepare import prepare
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.train.outcome import Outcome
from pipeline.train.pretrain import pretrain
from pipeline.train.run_dir.checkpoint import CheckpointFolder, load_checkpoint
from pipeline.train.run_dir.tracking import read_metrics
from tests.corpora import write_text, zipf_sentences
from tests.processes import Process

MODEL = [
    "model.filters=[[1,8],[2,16],[3,16]]", "model.character_dim=8", "model.num_highway=1", "model.lstm_dim=32",
    "model.projection_dim=16",
]  # fmt: skip
TINY = [
    *MODEL, "data.lanes=8", "data.window=10", "data.cold_start_share=0", "data.vocab_min_count=1", "data.workers=0",
    "softmax.num_samples=64", "evaluate.lanes=8", "train.threads=1", "train.accelerator=cpu", "train.log_every_steps=1",
    "wandb.mode=disabled",
]  # fmt: skip


def make_dataset(folder: Path) -> Path:
    """Prepare about 4,400 training tokens in many chunks, and 1,200 held-out tokens.

    An epoch of the tiny run has 55 steps.
    """
    folder.mkdir(exist_ok=True)
    train = write_text(folder / "train.txt", zipf_sentences(365, seed=1))
    heldout = write_text(folder / "heldout.txt", zipf_sentences(100, seed=2))
    out = folder / "dataset"
    prepare(
        [str(train)], str(out), heldout_inputs=[str(heldout)], workers=1, show_progress=False,
        shard_tokens=2000, chunk_tokens=300,
    )  # fmt: skip
    return out


def arguments(dataset: Path, run_dir: Path, *pairs: str) -> list[str]:
    return [*TINY, f"data.path={dataset}", f"run.dir={run_dir}", *pairs]


def config_of(dataset: Path, run_dir: Path, *pairs: str) -> PretrainConfig:
    return load(PretrainConfig, arguments(dataset, run_dir, *pairs))


def train_here(dataset: Path, run_dir: Path, *pairs: str) -> Outcome:
    """Train a run in this process."""
    return pretrain(config_of(dataset, run_dir, *pairs))


def start(dataset: Path, run_dir: Path, *pairs: str, forked: bool = True, **options: Any) -> Process:
    """Start `elmo pretrain`; in a fork if it is a single process and `forked` is true."""
    log = run_dir.parent / f"{run_dir.name}.{time.monotonic_ns()}.log"
    forked = forked and not any(pair.startswith("train.devices=") for pair in pairs)
    forked = forked and not options.keys() & {"preexec", "module"}
    return Process("pretrain", *arguments(dataset, run_dir, *pairs), log=log, forked=forked, **options)


def run(dataset: Path, run_dir: Path, *pairs: str, code: int = 0, **options: Any) -> str:
    """Run `elmo pretrain` to its end; return what it printed."""
    process = start(dataset, run_dir, *pairs, **options)
    assert process.wait() == code, process.output()
    return process.output()


def run_ranks(dataset: Path, run_dir: Path, ranks: int, *pairs: str) -> str:
    """Run `elmo pretrain` to its end in several forks, started as by torchrun; return what rank 0 printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
    command = ["pretrain", *arguments(dataset, run_dir, *pairs, f"train.devices={ranks}")]
    started = [
        Process(
            *command, log=run_dir.parent / f"{run_dir.name}.{time.monotonic_ns()}.rank-{rank}.log", forked=True,
            environment=launcher | {"LOCAL_RANK": str(rank)},
        )
        for rank in range(ranks)
    ]  # fmt: skip
    try:
        for process in started:
            assert process.wait() == 0, process.output()
    finally:
        for process in started:
            process.popen.kill()
    return started[0].output()


def last_step(run_dir: Path) -> int:
    """Return the newest step with training metrics, fast enough to be called a thousand times a second."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4000))
        lines = [line for line in file.read().splitlines() if b"train/loss" in line and line.endswith(b"}")]
        lines = [line for line in lines if line.startswith(b"{")]  # the first line may be incomplete
    return int(json.loads(lines[-1])["trainer/global_step"]) if lines else 0


def losses(run_dir: Path) -> dict[int, float]:
    return {step: values["train/loss"] for step, values in read_metrics(run_dir).items() if "train/loss" in values}


def curve(run_dir: Path) -> dict[int, dict[str, float]]:
    """Return all metrics that do not depend on time or place."""
    machine_dependent = ("speed/", "memory/")
    return {
        step: {name: value for name, value in values.items() if not name.startswith(machine_dependent)}
        for step, values in read_metrics(run_dir).items()
    }


def newest(run_dir: Path) -> dict[str, Any]:
    """Return the content of the newest checkpoint."""
    folder = CheckpointFolder(run_dir / "checkpoints")
    record = folder.newest_good()
    assert record is not None
    return load_checkpoint(folder.path(record))


def saved_steps(run_dir: Path) -> list[int]:
    return [record.step for record in CheckpointFolder(run_dir / "checkpoints").records()]


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    """Yield every place where two checkpoints differ in a bit, except for the config, which holds paths."""
    if isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape or a.numpy().tobytes() != b.numpy().tobytes():
            yield where
    elif isinstance(a, dict):
        if a.keys() != b.keys():
            yield f"{where}: keys {sorted(map(str, a.keys() ^ b.keys()))}"
        for key in a.keys() & b.keys():
            if key != "config":
                yield from differences(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple):
        if len(a) != len(b):
            yield f"{where}: {len(a)} and {len(b)} entries"
        for number, pair in enumerate(zip(a, b, strict=False)):
            yield from differences(*pair, f"{where}/{number}")
    elif a != b:
        yield f"{where}: {a} and {b}"
