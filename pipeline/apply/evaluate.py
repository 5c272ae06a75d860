"""`elmo evaluate`: held-out perplexity of a checkpoint and of unigram counts on the same tokens."""

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric

from data_prep.dataset.files import write_json
from data_prep.dataset.index import INDEX
from data_prep.dataset.lexicon import EOS_ID, UNK_ID
from data_prep.dataset.locations import is_url, local_path
from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset, Split
from data_prep.prepare import prepare
from pipeline.apply.load import load_trained
from pipeline.config.commands import EvaluateCommandConfig
from pipeline.config.schema import ConfigError, require
from pipeline.data.datamodule import evaluation_windows, held_out_split
from pipeline.data.vocabulary import Vocabulary, vocabulary_of
from pipeline.data.windows import BatchMaker
from pipeline.model.backend.device import choose_device
from pipeline.train.fast_path.trust import fast_path
from pipeline.train.trainer import end_with_launcher, launching_ranks, quieten_lightning
from pipeline.train.validate import Perplexity, held_out_perplexity


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation. Shares are of the words, without sentence bounds.

    outside_share: words outside the vocabulary. unk_share: <UNK> in the text itself. unigram: perplexity of unigram
    counts.
    """

    checkpoint: str
    step: int
    data: str
    perplexity: Perplexity
    vocabulary: int
    outside_share: float
    unk_share: float
    unigram: float

    def as_dict(self) -> dict[str, Any]:
        p = self.perplexity
        found = {"perplexity": p.both, "perplexity_forward": p.forward, "perplexity_backward": p.backward}
        lanes = {"tokens": p.tokens, "evaluate.lanes": p.lanes, "diverged_lanes": p.diverged_lanes}
        words = {"vocabulary": self.vocabulary, "outside_vocabulary_share": self.outside_share}
        words |= {"unk_share": self.unk_share, "unigram_perplexity": self.unigram}
        return {"checkpoint": self.checkpoint, "step": self.step, "data": self.data, **found, **lanes, **words}

    def __str__(self) -> str:
        p = self.perplexity
        outside = f"{self.outside_share:.2%} outside the vocabulary of {self.vocabulary:,}"
        rows = {
            "checkpoint": f"{self.checkpoint} (step {self.step:,})",
            "data": self.data,
            "tokens scored": f"{p.tokens:,} each way",
            "words scored as <UNK>": f"{outside}, {self.unk_share:.2%} <UNK> in the text itself",
            "states start cold": f"in {p.lanes} places (evaluate.lanes={p.lanes}; 1 = strict reading order)",
            "warning": p.warning,
            "unigram baseline": f"{self.unigram:10.2f}",
            "perplexity forward": f"{p.forward:10.2f}",
            "perplexity backward": f"{p.backward:10.2f}",
            "perplexity": f"{p.both:10.2f}",
        }
        return "\n".join(f"{name:23}{value}" for name, value in rows.items() if value)


def evaluate(config: EvaluateCommandConfig) -> Evaluation | None:
    """Score each token once with full softmax; return the result on rank 0, else None."""
    require(bool(config.checkpoint), "checkpoint= is missing: give a checkpoint file or a run's folder")
    require(bool(config.data), "data= is missing: give a dataset or text files")
    output = local_path(config.output, "output")
    require(output.parent.is_dir(), f"output={output}: there is no folder {output.parent}; make it first")
    end_with_launcher()
    quieten_lightning()
    strategy = "ddp" if config.devices > 1 else "auto"
    accelerator = choose_device(config.accelerator, config.devices)
    fabric = Fabric(accelerator=accelerator, strategy=strategy, devices=config.devices, precision=config.precision)
    with launching_ranks():
        fabric.launch()
    trained = load_trained(config.checkpoint, fabric.device)
    model = trained.language_model(
        f"checkpoint={config.checkpoint} has no softmax to predict words with, as imported weights have none; use a "
        "checkpoint of a run, or what `elmo export` made of one"
    )
    with _open(config.data, config.split) as (dataset, split):
        vocabulary = vocabulary_of(trained.words, dataset.lexicon)
        maker = BatchMaker(dataset.lexicon, vocabulary, trained.bilm.config.max_characters)
        windows = evaluation_windows(split, maker, config.evaluate)
        with fast_path(accelerator, fabric.global_rank, config.devices), fabric.autocast():
            perplexity = held_out_perplexity(
                model, windows, config.evaluate, fabric.device, fabric.global_rank, fabric.world_size
            )
        if fabric.global_rank != 0:
            return None
        outside, unk, unigram = unigram_baseline(split, vocabulary, trained.counts)
    result = Evaluation(
        str(trained.path), trained.step, " ".join(config.data), perplexity, len(trained.words), outside, unk, unigram
    )
    if config.output:
        write_json(output, result.as_dict())
    return result


def unigram_baseline(split: Split, vocabulary: Vocabulary, counts: np.ndarray) -> tuple[float, float, float]:
    """Return (share of words outside the vocabulary, share of the text's own <UNK>, perplexity of add-one smoothed
    training counts) on forward targets.
    """
    log_probability = np.log(counts + 1.0) - math.log(float(counts.sum()) + len(counts))
    nats, tokens, unknown, unk, ends = 0.0, 0, 0, 0, 0
    for chunk in range(len(split.chunk_tokens)):
        ids = np.asarray(split.chunk(chunk))
        targets = vocabulary.targets(ids)
        nats -= float(log_probability[targets].sum())
        tokens += len(targets)
        unknown += int((targets == UNK_ID).sum())
        unk += int((ids == UNK_ID).sum())
        ends += int((targets == EOS_ID).sum())
    words = max(1, tokens - ends)
    return (unknown - unk) / words, unk / words, math.exp(nats / tokens)


@contextmanager
def _open(data: list[str], split: str) -> Iterator[tuple[Dataset, Split]]:
    """Yield a dataset and its split; text files are prepared in their own order in a temporary folder."""
    if len(data) == 1 and (is_url(data[0]) or (Path(os.path.expanduser(data[0])) / INDEX).exists()):
        dataset = open_dataset(data[0])
        yield dataset, held_out_split(dataset, split)
        return
    for path in data:
        if Path(os.path.expanduser(path)).is_dir() and not any(Path(os.path.expanduser(path)).iterdir()):
            raise ConfigError(f"data={path} is an empty folder; give a dataset or text files")
    with tempfile.TemporaryDirectory(prefix="elmo-evaluate-") as folder:
        prepare(data, folder, heldout=0, shuffle="none", workers=1, show_progress=False)
        dataset = open_dataset(folder)
        yield dataset, dataset.splits["train"]
