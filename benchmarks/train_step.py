"""Training speed of a config on this machine, beside the rate of its matrix products in the same run.

python -m benchmarks.train_step data.path=DATASET [configs/small.yaml ...] [key=value ...]

Prints tokens/s of the whole step (batch, encoder, recurrence, softmax, optimizer), the floating-point operations
truly needed, and their share of the machine's sgemm rate measured just before and after. Writes JSON to --output=.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from data_prep.shards import open_dataset
from pipeline.config import ModelConfig, PretrainConfig
from pipeline.data.datamodule import choose_vocabulary
from pipeline.data.lanes import TrainLanes
from pipeline.data.windows import Batch, BatchMaker, TrainWindows, Vocabulary
from pipeline.model.bilm import BiLM, DropoutKey, States, Window, detach
from pipeline.model.sampler import LogUniformSampler
from pipeline.model.softmax import Candidates
from pipeline.read_config import load
from pipeline.train.optimizer import build_optimizer, clip_global_norm_
from pipeline.train.rows import RowGradients


def sgemm_flops(size: int = 1536, seconds: float = 1.0) -> float:
    """Floating-point operations a second of float32 matrix products on the threads that torch uses."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = a @ b
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        torch.mm(a, b, out=out)
        count += 1
    return count * 2 * size**3 / (time.perf_counter() - start)


def needed_flops(model: ModelConfig, candidates: int, unique_share: float, mean_characters: float) -> float:
    """Floating-point operations that training needs a token: forward x 3, words encoded once each, pads not at all."""
    filters = sum(number for _, number in model.filters)
    convolution = 2 * model.character_dim * sum(width * number for width, number in model.filters) * mean_characters
    highway = model.num_highway * 2 * 2 * filters**2
    projection = 2 * filters * model.projection_dim if filters != model.projection_dim else 0
    gates = 2 * 2 * model.projection_dim * 4 * model.lstm_dim
    lstm = 2 * model.num_layers * (gates + 2 * model.lstm_dim * model.projection_dim)
    softmax = 2 * 2 * candidates * model.projection_dim
    return 3 * (unique_share * (convolution + highway + projection) + lstm + softmax)


class Step:
    """One training step without Lightning, logging or a loader process."""

    def __init__(self, config: PretrainConfig, windows: TrainWindows, vocab_size: int) -> None:
        torch.manual_seed(0)
        self.config, self.windows = config, windows
        self.bilm = BiLM(config.model, vocab_size)
        self.optimizer = build_optimizer(config.optimizer, self.bilm.parameters())
        self.rows = RowGradients(self.bilm.softmax)
        self.sampler = LogUniformSampler(vocab_size, config.softmax.num_samples)
        self.states: States = self.bilm.initial_states(config.data.lanes)

    def __call__(self, step: int) -> Batch:
        batch = self.windows.batch(step, range(self.config.data.lanes))
        ids, tries = self.sampler.draw(0, step)
        candidates = Candidates(torch.from_numpy(ids).unsqueeze(0), torch.tensor([tries]))
        outputs, states = self.bilm(Window(batch.characters, batch.index), self.states, DropoutKey(0, step, 0))
        self.states = detach(states)
        targets = batch.targets.flatten(1)
        rows = self.bilm.softmax.touched_rows(candidates, targets)
        self.rows.collect(rows, targets)
        loss = self.bilm.softmax.sampled_loss(outputs[-1].flatten(1, 2), targets, candidates, rows).mean()
        self.rows.start_after_backward(loss.detach())
        (loss * self.config.data.window).backward()
        self.rows.finish(loss.detach())
        clip_global_norm_(list(self.bilm.parameters()), self.config.optimizer.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return batch


def measure(config: PretrainConfig, seconds: float) -> dict[str, Any]:
    dataset = open_dataset(config.data.path)
    vocab_size = choose_vocabulary(dataset, config.data)
    maker = BatchMaker(dataset.lexicon, Vocabulary(vocab_size), config.model.max_characters)
    lanes = TrainLanes(dataset.splits["train"].num_tokens, config.data.lanes, config.data.window)
    step = Step(config, TrainWindows(dataset.splits["train"], maker, lanes, config.run.seed), vocab_size)
    for warm in range(2):
        step(warm)
    gemm = [sgemm_flops()]
    unique = characters = count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds or count < 3:
        batch = step(count + 2)
        unique += len(batch.characters)
        characters += int((batch.characters != 260).sum())
        count += 1
    elapsed = time.perf_counter() - start
    gemm.append(sgemm_flops())
    tokens = count * lanes.tokens_per_step
    flops = needed_flops(config.model, config.softmax.num_samples, unique / tokens, characters / unique)
    return {
        "lanes": config.data.lanes, "vocabulary": vocab_size, "tokens_per_second": tokens / elapsed,
        "unique_share": unique / tokens, "needed_mflop_per_token": flops / 1e6,
        "gflops": flops * tokens / elapsed / 1e9, "sgemm_gflops": sum(gemm) / 2 / 1e9,
        "share_of_sgemm": flops * tokens / elapsed / (sum(gemm) / 2),
    }  # fmt: skip


def main(arguments: list[str]) -> None:
    options = {a.partition("=")[0]: a.partition("=")[2] for a in arguments if a.startswith("--")}
    arguments = [a for a in arguments if not a.startswith("--")]
    files = [a for a in arguments if a.endswith(".yaml")] or ["configs/small.yaml", "configs/original.yaml"]
    pairs = [a for a in arguments if not a.endswith(".yaml")]
    torch.set_num_threads(int(options.get("--threads", os.cpu_count() or 1)))
    print(f"{'config':12}{'lanes':>6}{'tokens/s':>10}{'MFLOP/token':>13}{'GFLOP/s':>9}{'sgemm':>8}{'share':>8}")
    results = {}
    for file in files:
        config = load(PretrainConfig, [file, "data.lanes=32", *pairs])
        row = results[Path(file).stem] = measure(config, float(options.get("--seconds", 20)))
        print(
            f"{Path(file).stem:12}{row['lanes']:6}{row['tokens_per_second']:10,.0f}{row['needed_mflop_per_token']:13.1f}"
            f"{row['gflops']:9.1f}{row['sgemm_gflops']:8.1f}{row['share_of_sgemm']:8.1%}"
        )
    if "--output" in options:
        Path(options["--output"]).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
