"""Count the bytes that each rank sends in a training step, by world size, compared with dense data parallelism.

python -m benchmarks.communication data.path=DATASET [CONFIG.yaml] [--lanes-per-rank=128] [--output=FILE.json]

Counted, not measured: rings move 2 (N - 1) / N of a buffer for an all-reduce and (N - 1) shares for an all-gather.
The union of touched rows is taken from real windows of the dataset, which should hold lanes x window tokens at 256
ranks (0.66 M) several times over. tests/train/test_sparse_gradient.py compares these formulas with a real step.
"""

import sys

import numpy as np
import torch

from benchmarks.measure.command import split_options, table, write_result, yaml_files
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


def ring_all_reduce(num_bytes: float, ranks: int) -> float:
    """Return the bytes that each rank sends in an all-reduce."""
    return 2 * (ranks - 1) / ranks * num_bytes


def targets_of_a_step(dataset: Dataset, config: PretrainConfig, num_lanes: int) -> np.ndarray:
    """Return the lexicon ids (2, lanes, window) that one step of `num_lanes` lanes predicts."""
    split = dataset.splits["train"]
    lanes = TrainLanes(split.num_tokens, num_lanes, config.data.window)
    stream = Stream(split, epoch_order(split.chunk_shard, config.run.seed, 0))
    starts = [lane * lanes.lane_tokens for lane in range(num_lanes)]
    return np.stack([stream.read(start, start + config.data.window).targets for start in starts], axis=1)


def traffic(dataset: Dataset, config: PretrainConfig, ranks: int, lanes_per_rank: int) -> dict[str, float]:
    """Return the bytes that each rank sends in a step: of all gradients and of the softmax's, dense and here."""
    vocabulary = choose_vocabulary(dataset, config.data)
    with torch.device("meta"):
        sizes = num_parameters(LanguageModel(config.model, config.data.vocab_size))
    targets = targets_of_a_step(dataset, config, ranks * lanes_per_rank)
    candidates, _ = LogUniformSampler(vocabulary, config.softmax.num_samples).draw(0)
    union = len(np.union1d(Vocabulary(vocabulary).targets(targets.reshape(2, -1)), candidates))
    rows = ring_all_reduce(2 * union * (config.model.projection_dim + 1), ranks)
    softmax = rows + (ranks - 1) * 4 * 2 * lanes_per_rank * config.data.window  # rows and all ranks' targets
    here = ring_all_reduce(2 * sizes["bilm"], ranks) + softmax
    dense = ring_all_reduce(4 * (sizes["bilm"] + sizes["softmax"]), ranks)
    dense_softmax = ring_all_reduce(4 * sizes["softmax"], ranks)
    result = {"ranks": ranks, "union_rows": union, "dense_ddp_bytes": dense, "bytes": here, "ratio": dense / here}
    result |= {"dense_softmax_bytes": dense_softmax, "softmax_bytes": softmax}
    return result | {"softmax_ratio": dense_softmax / softmax}


def main(arguments: list[str]) -> None:
    """Print the table and, with --output, write the figures as JSON."""
    options, rest = split_options(__doc__, arguments, lanes_per_rank=128)
    files, pairs = yaml_files(rest, "configs/original.yaml")
    config = load(PretrainConfig, [*files, *pairs])
    dataset = open_dataset(config.data.path)
    found = [traffic(dataset, config, ranks, options["lanes_per_rank"]) for ranks in WORLD_SIZES]
    rows = []
    for t in found:
        everything = [f"{t['dense_ddp_bytes'] / 1e9:.2f} GB", f"{t['bytes'] / 1e6:.0f} MB", f"{t['ratio']:.1f}"]
        softmax = [f"{t['dense_softmax_bytes'] / 1e9:.2f} GB", f"{t['softmax_bytes'] / 1e6:.1f} MB"]
        rows.append([str(t["ranks"]), f"{t['union_rows']:,}", *everything, *softmax, f"{t['softmax_ratio']:.1f}"])
    print("bytes that each rank sends in a step; train.exchange=bfloat16 here, dense DDP in float32")
    print(table(["ranks", "touched rows", "dense DDP", "here", "ratio", "softmax: dense", "here", "ratio"], rows))
    write_result(options["output"], found)


if __name__ == "__main__":
    main(sys.argv[1:])
