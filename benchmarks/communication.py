"""Bytes that each rank sends in a training step, by world size, compared with dense data parallelism.

python -m benchmarks.communication data.path=DATASET [CONFIG.yaml] [--lanes-per-rank=128] [--output=FILE.json]

Counted, not measured: rings move 2 (N - 1) / N of a buffer for an all-reduce and (N - 1) shares for an all-gather.
The union of touched rows is taken from real windows of the dataset, which should hold lanes x window tokens at 256
ranks (0.66 M) several times over. tests/train/test_sparse_gradient.py compares these formulas with a real step.
"""

import sys
from dataclasses import asdict, dataclass

import numpy as np
import torch

from benchmarks.command import split_options, write_result, yaml_files
from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.data.lanes import TrainLanes, epoch_order
from pipeline.data.stream import Stream
from pipeline.data.vocabulary import Vocabulary, choose_vocabulary
from pipeline.model.bilm import num_parameters
from pipeline.model.language_model import LanguageModel
from pipeline.model.sampler import LogUniformSampler

WORLD_SIZES = (8, 64, 256)


@dataclass
class Traffic:
    """Bytes that each of `ranks` ranks sends in a step. unique_share: share of unique words among a rank's words."""

    ranks: int
    union_rows: int
    unique_share: float
    dense_ddp_bytes: float
    dense_softmax_bytes: float
    bytes: float
    softmax_bytes: float

    @property
    def ratio(self) -> float:
        return self.dense_ddp_bytes / self.bytes

    @property
    def softmax_ratio(self) -> float:
        return self.dense_softmax_bytes / self.softmax_bytes


def ring_all_reduce(num_bytes: float, ranks: int) -> float:
    """Return the bytes that each rank sends in an all-reduce."""
    return 2 * (ranks - 1) / ranks * num_bytes


def ring_all_gather(share_bytes: float, ranks: int) -> float:
    """Return the bytes that each rank sends in an all-gather of share_bytes per rank."""
    return (ranks - 1) * share_bytes


def targets_of_a_step(dataset: Dataset, config: PretrainConfig, num_lanes: int) -> np.ndarray:
    """Return the lexicon ids (2, lanes, window) that one step of `num_lanes` lanes predicts."""
    split = dataset.splits["train"]
    lanes = TrainLanes(split.num_tokens, num_lanes, config.data.window)
    stream = Stream(split, epoch_order(split.chunk_shard, config.run.seed, 0))
    starts = [lane * lanes.lane_tokens for lane in range(num_lanes)]
    return np.stack([stream.read(start, start + config.data.window).targets for start in starts], axis=1)


def traffic(dataset: Dataset, config: PretrainConfig, ranks: int, lanes_per_rank: int) -> Traffic:
    """Return the traffic of a step, whose touched rows are the candidates and all ranks' targets of both directions."""
    vocabulary = choose_vocabulary(dataset, config.data)
    with torch.device("meta"):
        sizes = num_parameters(LanguageModel(config.model, config.data.vocab_size))
    targets = targets_of_a_step(dataset, config, ranks * lanes_per_rank)
    candidates, _ = LogUniformSampler(vocabulary, config.softmax.num_samples).draw(0)
    union = len(np.union1d(Vocabulary(vocabulary).targets(targets.reshape(2, -1)), candidates))
    mine = targets[0, :lanes_per_rank]
    rows = ring_all_reduce(2 * union * (config.model.projection_dim + 1), ranks)
    softmax = rows + ring_all_gather(4 * 2 * mine.size, ranks)
    return Traffic(
        ranks, union, len(np.unique(mine)) / mine.size,
        dense_ddp_bytes=ring_all_reduce(4 * (sizes["bilm"] + sizes["softmax"]), ranks),
        dense_softmax_bytes=ring_all_reduce(4 * sizes["softmax"], ranks),
        bytes=ring_all_reduce(2 * sizes["bilm"], ranks) + softmax, softmax_bytes=softmax,
    )  # fmt: skip


def main(arguments: list[str]) -> None:
    options, rest = split_options(arguments, lanes_per_rank=128)
    files, pairs = yaml_files(rest, "configs/original.yaml")
    config = load(PretrainConfig, [*files, *pairs])
    dataset = open_dataset(config.data.path)
    rows = [traffic(dataset, config, ranks, options["lanes_per_rank"]) for ranks in WORLD_SIZES]
    print("bytes each rank sends a step; train.exchange=bfloat16 here, dense DDP in float32")
    heads = (("ranks", 6), ("rows", 9), ("dense DDP", 12), ("here", 10), ("ratio", 8), ("softmax: dense", 17),
             ("here", 10), ("ratio", 8))  # fmt: skip
    print("".join(f"{name:>{width}}" for name, width in heads))
    for r in rows:
        print(
            f"{r.ranks:6.0f}{r.union_rows:9,.0f}{r.dense_ddp_bytes / 1e9:9.2f} GB{r.bytes / 1e6:7.0f} MB"
            f"{r.ratio:8.1f}{r.dense_softmax_bytes / 1e9:14.2f} GB{r.softmax_bytes / 1e6:7.1f} MB"
            f"{r.softmax_ratio:8.1f}"
        )
    write_result(
        options["output"], [asdict(r) | {"ratio": r.ratio, "softmax_ratio": r.softmax_ratio} for r in rows]
    )  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
