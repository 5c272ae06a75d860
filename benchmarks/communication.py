"""Bytes that each rank sends in a training step, by world size, beside dense data parallelism.

python -m benchmarks.communication data.path=DATASET [CONFIG.yaml] [--lanes-per-rank=128] [--output=FILE.json]

Counted, not measured: rings move 2 (N - 1) / N of a buffer for an all-reduce and (N - 1) shares for an all-gather.
The union of touched rows is taken from real windows of the dataset, which should hold lanes x window tokens at 256
ranks (0.66 M) several times over. tests/train/test_sparse_gradient.py compares these formulas with a real step.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from data_prep.shards import Dataset, open_dataset
from pipeline.config import PretrainConfig
from pipeline.data.datamodule import choose_vocabulary
from pipeline.data.lanes import TrainLanes, epoch_order
from pipeline.data.stream import Stream
from pipeline.data.windows import Vocabulary
from pipeline.model.bilm import BiLM, num_parameters
from pipeline.model.sampler import LogUniformSampler
from pipeline.read_config import load

WORLD_SIZES = (8, 64, 256)


def ring_all_reduce(num_bytes: float, ranks: int) -> float:
    """Bytes each rank sends."""
    return 2 * (ranks - 1) / ranks * num_bytes


def ring_all_gather(share_bytes: float, ranks: int) -> float:
    """Bytes each rank sends, where each holds share_bytes."""
    return (ranks - 1) * share_bytes


def union_rows(dataset: Dataset, config: PretrainConfig, vocabulary: int, ranks: int, lanes_per_rank: int) -> int:
    """Rows of the softmax that a step of `ranks` ranks touches: candidates and all targets of one window, both ways."""
    split = dataset.splits["train"]
    lanes = TrainLanes(split.num_tokens, ranks * lanes_per_rank, config.data.window)
    stream = Stream(split, epoch_order(split.chunk_shard, config.run.seed, 0))
    targets = [
        stream.read(lane * lanes.lane_tokens, lane * lanes.lane_tokens + config.data.window).targets
        for lane in range(lanes.num_lanes)
    ]
    words = Vocabulary(vocabulary).targets(np.concatenate(targets, axis=1))
    candidates, _ = LogUniformSampler(vocabulary, config.softmax.num_samples).draw(0)
    return len(np.union1d(words, candidates))


def table(config: PretrainConfig, lanes_per_rank: int) -> list[dict[str, float]]:
    dataset = open_dataset(config.data.path)
    vocabulary = choose_vocabulary(dataset, config.data)
    with torch.device("meta"):
        sizes = num_parameters(BiLM(config.model, config.data.vocab_size))
    width = config.model.projection_dim
    rows = []
    for ranks in WORLD_SIZES:
        union = union_rows(dataset, config, vocabulary, ranks, lanes_per_rank)
        targets = 2 * config.data.window * lanes_per_rank
        ours_softmax = ring_all_reduce(2 * union * (width + 1), ranks) + ring_all_gather(4 * targets, ranks)
        ours_dense = ring_all_reduce(2 * sizes["bilm"], ranks)
        dense_softmax = ring_all_reduce(4 * sizes["softmax"], ranks)
        dense = ring_all_reduce(4 * (sizes["bilm"] + sizes["softmax"]), ranks)
        rows.append({
            "ranks": ranks, "union_rows": union, "dense_ddp_bytes": dense, "bytes": ours_dense + ours_softmax,
            "ratio": dense / (ours_dense + ours_softmax), "dense_softmax_bytes": dense_softmax,
            "softmax_bytes": ours_softmax, "softmax_ratio": dense_softmax / ours_softmax,
        })  # fmt: skip
    return rows


def main(arguments: list[str]) -> None:
    options = {a.partition("=")[0]: a.partition("=")[2] for a in arguments if a.startswith("--")}
    pairs = [a for a in arguments if not a.startswith("--")]
    if not any(a.endswith(".yaml") for a in pairs):
        pairs = ["configs/original.yaml", *pairs]
    rows = table(load(PretrainConfig, pairs), int(options.get("--lanes-per-rank", 128)))
    print("bytes each rank sends a step; train.exchange=bfloat16 here, dense DDP in float32")
    heads = (("ranks", 6), ("rows", 9), ("dense DDP", 12), ("here", 10), ("ratio", 8), ("softmax: dense", 17),
             ("here", 10), ("ratio", 8))  # fmt: skip
    print("".join(f"{name:>{width}}" for name, width in heads))
    for r in rows:
        print(
            f"{r['ranks']:6.0f}{r['union_rows']:9,.0f}{r['dense_ddp_bytes'] / 1e9:9.2f} GB{r['bytes'] / 1e6:7.0f} MB"
            f"{r['ratio']:8.1f}{r['dense_softmax_bytes'] / 1e9:14.2f} GB{r['softmax_bytes'] / 1e6:7.1f} MB"
            f"{r['softmax_ratio']:8.1f}"
        )
    if "--output" in options:
        Path(options["--output"]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
