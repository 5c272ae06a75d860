"""Predict the time of a training step on 1 to 256 GPUs from assumptions; nothing here is measured.

python -m benchmarks.step_time data.path=DATASET [CONFIG.yaml] [--lanes-per-gpu=128] [--compute-ms=MS]
    [--network-gb=50] [--output=FILE.json]

--compute-ms: measured milliseconds of one GPU for lanes-per-gpu lanes, instead of the computed time. --network-gb: each
GPU's share of its node's network, in 1e9 bytes per second: 50 is one 400 Gbit/s card per GPU, 3 is one 200 Gbit/s card
for eight GPUs. Bytes are those of benchmarks.communication, for touched rows of real text.
"""

import math
import sys
from dataclasses import asdict, dataclass

import torch

from benchmarks.command import split_options, write_result, yaml_files
from benchmarks.communication import Traffic, traffic
from benchmarks.rates import needed_flops
from data_prep.dataset.open import open_dataset
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.model.bilm import num_parameters
from pipeline.model.language_model import LanguageModel

GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
GPUS_PER_NODE = 8
BENCHMARK_TOKENS = 768_648_884  # of the 1B Word Benchmark's training part: bilm-tf, bin/train_elmo.py


@dataclass(frozen=True)
class Assumptions:
    """H200s in nodes of eight."""

    flops: float = 790e12  # bfloat16, reached by large matrix products
    share_of_flops: float = 0.6  # reached by this model's matrix products
    memory_bytes_a_second: float = 4.3e12  # of 4.8e12 advertised
    kernel_seconds: float = 5e-6  # from one dependent kernel to the next, in a CUDA graph
    kernels: int = 3  # sequential ones per token of a layer: recurrent matmul, gates, projection
    optimizer_bytes: int = 20  # per parameter: read gradient, weight and accumulator, write the latter two, float32
    nvlink_bytes_a_second: float = 350e9  # reached by rings, of 450e9 each way
    network_bytes_a_second: float = 50e9  # per GPU
    network_share: float = 0.8  # reached by rings
    collective_seconds: float = 20e-6  # to start a collective and to cross a node
    hop_seconds: float = 5e-6  # between nodes; a tree has 2 log2(nodes)
    bucket_bytes: int = 25 << 20  # of float32 gradients: DDP's default
    small_collectives: int = 3  # targets, rows, and the loss with the requests
    overlap: float = 0.8  # share of backward's time that can hide traffic


@dataclass
class Step:
    """Seconds of a step. compute: of one GPU. traffic: of all bytes. waits: traffic that backward does not hide."""

    gpus: int
    compute: float
    traffic: float
    waits: float
    tokens: int

    @property
    def seconds(self) -> float:
        return self.compute + self.waits

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    @property
    def efficiency(self) -> float:
        return self.compute / self.seconds


def compute_seconds(config: PretrainConfig, here: Traffic, lanes: int, a: Assumptions) -> float:
    """Return seconds of compute: matrix products at their rate, sequential kernels, the optimizer at memory speed."""
    needed = needed_flops(config.model, config.softmax.num_samples, here.unique_share, mean_characters=None)
    matmuls = lanes * config.data.window * needed / (a.flops * a.share_of_flops)
    sequential = 2 * a.kernels * config.data.window * config.model.num_layers * a.kernel_seconds
    parameters = _dense_parameters(config) + here.union_rows * (config.model.projection_dim + 1)
    return matmuls + sequential + a.optimizer_bytes * parameters / a.memory_bytes_a_second


def step(config: PretrainConfig, here: Traffic, compute: float, lanes: int, a: Assumptions) -> Step:
    tokens = here.ranks * lanes * config.data.window
    if here.ranks == 1:
        return Step(1, compute, 0.0, 0.0, tokens)
    nodes = math.ceil(here.ranks / GPUS_PER_NODE)
    network = a.network_share * a.network_bytes_a_second * GPUS_PER_NODE  # eight rings leave a node in parallel
    rate = min(a.nvlink_bytes_a_second, network) if nodes > 1 else a.nvlink_bytes_a_second
    each = a.collective_seconds + 2 * math.log2(nodes) * a.hop_seconds
    buckets = math.ceil(4 * _dense_parameters(config) / a.bucket_bytes)
    traffic_seconds = here.bytes / rate + (buckets + a.small_collectives) * each
    last = a.bucket_bytes / rate + 2 * each  # the first layer's gradients, then the loss
    hidden = min(traffic_seconds, a.overlap * compute * 2 / 3)  # backward takes two thirds
    return Step(here.ranks, compute, traffic_seconds, max(traffic_seconds - hidden, last), tokens)


def _dense_parameters(config: PretrainConfig) -> int:
    with torch.device("meta"):
        return int(num_parameters(LanguageModel(config.model, config.data.vocab_size))["bilm"])


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, lanes_per_gpu=128, compute_ms=0.0, network_gb=50.0)
    files, pairs = yaml_files(rest, "configs/original.yaml")
    config, lanes = load(PretrainConfig, [*files, *pairs]), options["lanes_per_gpu"]
    dataset, a = open_dataset(config.data.path), Assumptions(network_bytes_a_second=1e9 * options["network_gb"])
    steps = []
    for gpus in GPUS:
        here = traffic(dataset, config, gpus, lanes)
        compute = options["compute_ms"] / 1e3 or compute_seconds(config, here, lanes, a)
        steps.append((here, step(config, here, compute, lanes, a)))
    print(f"a prediction, not a measurement: {lanes} lanes x {config.data.window} tokens a GPU, {a}")
    print("| GPUs | rows | MB sent | compute | traffic | waits | step | tokens/s | efficiency | ten epochs of 1B |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for here, s in steps:
        print(
            f"| {s.gpus} | {here.union_rows:,} | {here.bytes / 1e6:.0f} | {s.compute * 1e3:.2f} ms "
            f"| {s.traffic * 1e3:.2f} ms | {s.waits * 1e3:.2f} ms | {s.seconds * 1e3:.2f} ms "
            f"| {s.tokens_per_second / 1e6:.2f} M | {s.efficiency:.0%} "
            f"| {10 * BENCHMARK_TOKENS / s.tokens_per_second / 60:.1f} min |"
        )
    write_result(options["output"], {"assumptions": asdict(a), "steps": [asdict(s) for _, s in steps]})


if __name__ == "__main__":
    main(sys.argv[1:])
