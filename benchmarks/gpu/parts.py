"""The parts of benchmarks.gpu. Each part measures one thing, prints it, and returns its figures."""

import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from benchmarks.gpu.check import check
from benchmarks.gpu.steps import Draw, OursAt, inputs_of, train_step, way_of
from benchmarks.measure.clock import middle, repeat
from benchmarks.measure.rates import needed_flops
from benchmarks.measure.timed_step import Text, Way
from pipeline.characters import PAD
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.data.datamodule import StepBatches
from pipeline.model.backend import device as gpu
from pipeline.model.language_model import LanguageModel
from pipeline.model.softmax import Softmax
from pipeline.train.auto import resolve_auto
from pipeline.train.step.inputs import Preparation, StepInputs

Result = dict[str, Any]

WAYS = ("graphs", "kernels", "plain", "nn.LSTM", "loop", "compiled loop")
TINY = ["model.lstm_dim=16", "model.projection_dim=8", "model.filters=[[1,4],[2,4],[3,8]]"]
TINY += ["softmax.num_samples=16", "data.window=3"]
CHECKED = ["data.lanes=33", "data.window=7", "softmax.num_samples=512"]
_KEPT_BATCHES = 8


@dataclass
class Job:
    """The argument of all parts. seconds: time for the current part."""

    device: torch.device
    arguments: list[str]
    lanes: list[int]
    vocabulary: int
    is_dry: bool
    has_own_data: bool
    seconds: float = 0.0
    matmul_rate: float = 0.0

    def config(self, *more: str) -> PretrainConfig:
        config = load(PretrainConfig, [*self.arguments, *more, *(TINY if self.is_dry else [])])
        resolve_auto(config, self.device.type, 1)
        return config

    @property
    def way(self) -> str:
        return "plain" if self.is_dry else "graphs"

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def median_seconds(self, run: Callable[[], Any], seconds: float) -> float:
        """Return the median seconds of a call, measured in blocks of calls: each block waits for the GPU."""
        size = 1 if self.is_dry else 5

        def block() -> None:
            for _ in range(size):
                run()
            self.wait()

        run()
        self.wait()
        return middle(repeat(block, seconds)).wall / size


def rates(job: Job) -> Result:
    size = 64 if job.is_dry else 8192
    a, b = (torch.randn(size, size, device=job.device, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(1 << (12 if job.is_dry else 28), device=job.device)
    target = torch.empty_like(source)
    job.matmul_rate = 2 * size**3 / job.median_seconds(lambda: torch.mm(a, b), job.seconds / 2)
    copies = 8 * len(source) / job.median_seconds(lambda: target.copy_(source), job.seconds / 2)
    print(f"bf16 matrix products {job.matmul_rate / 1e12:.1f} TFLOP/s, copies {copies / 1e12:.2f} TB/s")
    return {"matmul_flops": job.matmul_rate, "copy_bytes": copies}


def check_numbers(job: Job) -> Result:
    fewer = ["data.lanes=3", "data.window=3", "softmax.num_samples=16"] if job.is_dry else []
    medium = ["model.lstm_dim=256", "model.projection_dim=64", "model.num_highway=1"]
    config = job.config(*medium, *CHECKED, *fewer)
    text = Text(config)
    draws = [text.draw(step) for step in range(2 if job.is_dry else 5)]
    words = [len(batch.characters) for batch, _ in draws]
    assert len(set(words)) > 1, "windows should have different numbers of words"
    rows = check(config, text, draws, job.device)
    for row in rows:
        errors = ", ".join(f"{error:.1e} ({name})" for error, name in row["worst"].values())
        print(f"{row['precision']:8} {row['way']:8} {'right' if row['right'] else 'WRONG'}   worst: {errors}")
    return {"rows": rows, "unique_words": words, "right": all(row["right"] for row in rows)}


def speed(job: Job) -> Result:
    torch.manual_seed(0)
    bilm = Text(job.config(), job.vocabulary).network(job.config(), job.device)
    jobs = [(lanes, way) for lanes in job.lanes for way in WAYS if lanes == job.lanes[0] or way != "compiled loop"]
    result: Result = {}
    print(f"{'lanes':>6} {'way':14}{'ms/step':>9}{'tokens/s':>11}{'of bound':>9}{'graphs is x':>12}{'GiB':>6}")
    for lanes, way in jobs:
        config = job.config(f"data.lanes={lanes}")
        text = Text(config, job.vocabulary)
        draws = [text.draw(step) for step in range(2 if job.is_dry else _KEPT_BATCHES)]
        words = sum(len(batch.characters) for batch, _ in draws)
        letters = sum(int((batch.characters != PAD).sum()) for batch, _ in draws)
        tokens = lanes * config.data.window
        flops = needed_flops(config.model, config.softmax.num_samples, words / len(draws) / tokens, letters / words)
        row = _speed_of(job, way, config, bilm, draws, job.seconds / len(jobs))
        if "seconds" in row:
            best = result.get(f"{lanes} graphs", row)["seconds"]
            row |= {"tokens_per_second": tokens / row["seconds"], "graphs_is_times": row["seconds"] / best}
            row["share_of_bound"] = flops * tokens / row["seconds"] / job.matmul_rate if job.matmul_rate else None
            figures = f"{row['seconds'] * 1e3:9.2f}{row['tokens_per_second']:11,.0f}{row['share_of_bound'] or 0:9.1%}"
            print(f"{lanes:6} {way:14}{figures}{row['graphs_is_times']:12.2f}{row['gib']:6.1f}", flush=True)
        else:
            print(f"{lanes:6} {way:14} {row['failed'][:90]}", flush=True)
        result[f"{lanes} {way}"] = row
    waits = result[f"{job.lanes[0]} graphs"].get("waits_at")
    print(f"the CPU waits for the GPU in a step of ours at: {', '.join(waits) if waits else 'nowhere'}")
    return result


def _speed_of(
    job: Job, name: str, config: PretrainConfig, bilm: LanguageModel, draws: list[Draw], seconds: float
) -> Result:
    if job.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    mode = name if name in gpu.MODES else "plain"
    mode = "kernels" if mode == "graphs" and job.is_dry else mode
    try:
        way, numbers = way_of(name, config, bilm), count()
        inputs = [inputs_of(way, draw, job.device) for draw in draws]
        with gpu.using(mode):

            def run() -> None:
                number = next(numbers)
                train_step(way, config, inputs[number % len(inputs)], number, job.device)

            for _ in range(1 if job.is_dry else 4):  # compiles, then records
                run()
            spent = job.median_seconds(run, seconds)
            waits = _synchronisations(way, config, inputs[0], job.device) if job.device.type == "cuda" else []
    except (torch.OutOfMemoryError, RuntimeError) as error:
        return {"failed": f"{type(error).__name__}: {error}"}
    most = torch.cuda.max_memory_allocated() / 2**30 if job.device.type == "cuda" else 0.0
    return {"seconds": spent, "gib": most, "waits_at": waits}


def _synchronisations(way: Way, config: PretrainConfig, inputs: StepInputs, device: torch.device) -> list[str]:
    """Return the places in a step at which the CPU waits for the GPU, without the finite check of the step before."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        train_step(way, config, inputs, 0, device)
        torch.cuda.set_sync_debug_mode("default")
    return sorted({f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message)})


def curves(job: Job) -> Result:
    config = job.config("configs/small.yaml", f"data.lanes={4 if job.is_dry else 128}")
    text, losses = Text(config), {}
    for precision in ("float32", "bf16"):
        torch.manual_seed(0)
        way = OursAt(config, text.network(config, job.device))
        found, begun = [], time.perf_counter()
        most = len(losses["float32"]) if losses else 3 if job.is_dry else 2000
        while len(found) < most and (losses or not found or time.perf_counter() - begun < job.seconds / 2):
            number = len(found)
            with gpu.using(job.way):
                inputs = inputs_of(way, text.draw(number), job.device)
                found.append(train_step(way, config, inputs, number, job.device, precision))
        losses[precision] = torch.stack(found).double().cpu()
    steps = len(losses["bf16"])
    block = max(1, steps // 20)
    means = {name: one[: steps // block * block].view(-1, block).mean(1) for name, one in losses.items()}
    apart = (means["bf16"] - means["float32"]).abs()
    print(f"{steps} steps; mean losses of {block} steps each, in nats; largest difference {apart.max():.4f}")
    for place, pair in enumerate(zip(*means.values(), strict=True)):
        print(f"{place * block:6} float32 {pair[0]:.4f} bf16 {pair[1]:.4f}")
    return {"steps": steps, "means": {k: v.tolist() for k, v in means.items()}, "right": apart.max().item() < 0.05}


def waiting(job: Job) -> Result:
    config = job.config(f"data.lanes={job.lanes[0]}")
    text, warm = Text(config, job.vocabulary), 1 if job.is_dry else 10
    dataset = StepBatches(text.windows, [range(config.data.lanes)], Preparation(config, job.vocabulary))
    workers, is_pinned = config.data.workers, job.device.type == "cuda"
    loader = partial(DataLoader, dataset, None, sampler=range(1 << 30), num_workers=workers)
    batches = iter(loader(prefetch_factor=4 if workers else None, pin_memory=is_pinned))
    torch.manual_seed(0)
    way = OursAt(config, text.network(config, job.device))
    waited, begun, steps = 0.0, time.perf_counter(), 0
    while steps < warm + 2 or time.perf_counter() - begun < job.seconds:
        if steps == warm:
            begun, waited = time.perf_counter(), 0.0
        start = time.perf_counter()
        inputs = next(batches)
        waited += time.perf_counter() - start
        with gpu.using(job.way):
            train_step(way, config, inputs, steps, job.device)
        steps += 1
    share = waited / (time.perf_counter() - begun)
    print(f"waited for data {share:.2%} of the time of {steps - warm} steps at {config.data.lanes} lanes")
    return {"share": share, "steps": steps - warm, "workers": config.data.workers}


@torch.no_grad()
def evaluation(job: Job) -> Result:
    width = job.config().model.projection_dim
    with job.device:
        softmax = Softmax(job.vocabulary, width)
    result: Result = {}
    for positions in (8,) if job.is_dry else (4096, 16384):
        y = torch.randn(positions, width, device=job.device)
        targets = torch.randint(job.vocabulary, (positions,), device=job.device)

        def score(y: torch.Tensor = y, targets: torch.Tensor = targets) -> torch.Tensor:
            return softmax.full_loss(y, targets)

        for mode in ("kernels", "plain"):
            with gpu.using(mode), torch.autocast(job.device.type, torch.bfloat16):
                each = job.median_seconds(score, job.seconds / 4) / positions
            share = 2 * job.vocabulary * width / each / job.matmul_rate if job.matmul_rate else None
            result[f"{positions} {mode}"] = {"positions_per_second": 1 / each, "share_of_bound": share}
            print(f"{positions:6} positions, {mode:8}{1 / each:12,.0f} a second, {share or 0:.1%} of the bound")
    return result


def pretraining(job: Job) -> Result:
    if not job.has_own_data and not job.is_dry:
        print("skipped: give real text by data.path=")
        return {}
    with tempfile.TemporaryDirectory() as folder:
        dry = ["train.max_steps=2", "train.accelerator=cpu", *TINY]
        extra = [f"data.lanes={job.lanes[0]}", "wandb.mode=offline", f"run.dir={folder}"]
        extra += dry if job.is_dry else ["train.precision=bf16-mixed"]
        command = [sys.executable, "-m", "pipeline.cli", "pretrain", *job.arguments, *extra]
        process = subprocess.Popen(command)
        try:
            code = process.wait(None if job.is_dry else job.seconds)
        except subprocess.TimeoutExpired:
            process.terminate()  # the run saves a checkpoint and exits with 75
            code = process.wait()
        metrics = Path(folder, "metrics.jsonl")
        lines = metrics.read_text().splitlines() if metrics.exists() else []
    print(*lines[-3:], sep="\n")
    return {"exit_code": code, "metrics": lines, "right": code in (0, 75)}


# Each part and its share of --seconds, without the time for compiling and setup.
PARTS: dict[str, tuple[Callable[[Job], Result], float]] = {
    "rates": (rates, 0.01),
    "check": (check_numbers, 0.05),
    "speed": (speed, 0.4),
    "curves": (curves, 0.15),
    "waiting": (waiting, 0.05),
    "evaluation": (evaluation, 0.05),
    "pretraining": (pretraining, 0.3),
}
