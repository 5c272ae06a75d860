"""`elmo probe pos`: one linear softmax layer on each frozen layer, all trained in the same pass over the batches.

The layers do not influence each other: each has its own weights, its own early stopping and its own best epoch. Recipe:
Adam at 1e-3, 80 sentences a step, at most 50 epochs, patience 3 (contextual-repr-analysis, ptb_pos_tagging.json).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from data_prep.progress import Progress
from pipeline.config.probes import PosProbeConfig
from pipeline.config.schema import require
from pipeline.tasks.examples.columns import read_columns
from pipeline.tasks.examples.types import TaggedSentence
from pipeline.tasks.metrics.counts import PERCENT
from pipeline.tasks.probes.layers import LayerSource, open_layers, write_sentences
from pipeline.tasks.probes.result import ProbeResult, percent

_UNKNOWN_TAG = -1  # of dev and test, where training has not seen the tag: always counted as wrong


@dataclass
class LayerScore:
    """Accuracy of a layer in percent, at the epoch that was best on dev. epochs: trained until it stopped."""

    layer: str
    dev: float = -1.0
    test: float | None = None
    best_epoch: int = 0
    epochs: int = 0


@dataclass
class LinearProbe:
    """The softmax layer of one frozen layer, from zero: the loss is convex, so that any start does."""

    score: LayerScore
    weight: Tensor
    bias: Tensor
    is_stopped: bool = False
    best: tuple[Tensor, Tensor] = field(init=False)

    @classmethod
    def start(cls, layer: str, width: int, num_tags: int) -> "LinearProbe":
        weight, bias = torch.zeros(width, num_tags), torch.zeros(num_tags)
        return cls(LayerScore(layer), weight.requires_grad_(), bias.requires_grad_())

    def loss(self, x: Tensor, tags: Tensor) -> Tensor:
        return F.cross_entropy(torch.addmm(self.bias, x, self.weight), tags)

    @torch.no_grad()
    def num_right(self, x: Tensor, tags: Tensor) -> int:
        return int((torch.addmm(self.bias, x, self.weight).argmax(1) == tags).sum())

    @torch.no_grad()
    def note(self, epoch: int, dev: float, patience: int) -> None:
        """Keep the weights if they are the best so far; stop after `patience` epochs without a better score."""
        self.score.epochs = epoch
        if dev > self.score.dev:
            self.score.dev, self.score.best_epoch = dev, epoch
            self.best = self.weight.clone(), self.bias.clone()
        self.is_stopped = epoch - self.score.best_epoch >= patience

    @torch.no_grad()
    def restore_best(self) -> None:
        for parameter, best in zip((self.weight, self.bias), self.best, strict=True):
            parameter.copy_(best)


@dataclass(frozen=True)
class Part:
    """Sentences with tags, as numbers of the source's sentences. tags: ids, one array a sentence."""

    numbers: Sequence[int]
    tags: list[np.ndarray]

    def batch(self, source: LayerSource, chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the layers (L + 1, words, width) and the tags (words,) of some sentences of the part."""
        found = list(source.read([self.numbers[place] for place in chosen]))
        tags = np.concatenate([self.tags[place] for place in chosen])
        return torch.from_numpy(np.concatenate(found, 1).astype(np.float32)), torch.from_numpy(tags)

    def batches(self, order: Sequence[int], size: int) -> list[Sequence[int]]:
        return [order[start : start + size] for start in range(0, len(order), size)]


def probe_pos(config: PosProbeConfig) -> ProbeResult | str:
    """Train and score a linear layer on each layer. Raises ConfigError, DataError."""
    require(bool(config.train), "train= is missing: give one or more files of tagged words")
    require(bool(config.dev), "dev= is missing: early stopping needs tagged words that are not trained on")
    files = [("train", path) for path in config.train] + [("dev", config.dev)]
    files += [("test", config.test)] if config.test else []
    sentences: dict[str, list[TaggedSentence]] = {}
    for name, path in files:
        sentences.setdefault(name, []).extend(read_columns(path, config.word_column, config.tag_column))
    texts = [sentence.words for part in sentences.values() for sentence in part]
    if config.sentences:
        return write_sentences(config, texts)
    tag_ids = {tag: n for n, tag in enumerate(sorted({tag for s in sentences["train"] for tag in s.tags}))}
    with open_layers(config, texts) as source:
        scores = train_probes(config, source, _parts(sentences, tag_ids), len(tag_ids))
    result = _result(config, scores, len(tag_ids), {name: _count(part) for name, part in sentences.items()})
    result.write(config)
    return result


def train_probes(
    config: PosProbeConfig, source: LayerSource, parts: dict[str, Part], num_tags: int
) -> list[LayerScore]:
    """Return the scores of all layers. A layer that has stopped costs nothing more."""
    probes = [LinearProbe.start(name, source.width, num_tags) for name in source.names]
    optimizer = torch.optim.Adam([p for probe in probes for p in (probe.weight, probe.bias)], config.learning_rate)
    train = parts["train"]
    progress = Progress(
        "probe pos", config.max_epochs, unit="epoch", describe=lambda *_: f"{_num_training(probes)} layers in training"
    )
    for epoch in range(1, config.max_epochs + 1):
        order = np.random.default_rng((config.seed, epoch)).permutation(len(train.numbers)).tolist()
        for chosen in train.batches(order, config.batch_size):
            x, tags = train.batch(source, chosen)
            optimizer.zero_grad()  # Adam leaves weights without a gradient alone: those of layers that have stopped
            for number, probe in enumerate(probes):
                if not probe.is_stopped:
                    probe.loss(x[number], tags).backward()
            optimizer.step()
        for number, accuracy in _accuracies(config, source, parts["dev"], probes).items():
            probes[number].note(epoch, accuracy, config.patience)
        progress.update(epoch)
        if not _num_training(probes):
            break
    progress.close()
    _score_test(config, source, parts, probes)
    return [probe.score for probe in probes]


def _num_training(probes: list[LinearProbe]) -> int:
    return sum(not probe.is_stopped for probe in probes)


def _score_test(config: PosProbeConfig, source: LayerSource, parts: dict[str, Part], probes: list[LinearProbe]) -> None:
    for probe in probes:
        probe.restore_best()
        probe.is_stopped = False
    if "test" in parts:
        for number, accuracy in _accuracies(config, source, parts["test"], probes).items():
            probes[number].score.test = accuracy


def _accuracies(config: PosProbeConfig, source: LayerSource, part: Part, probes: list[LinearProbe]) -> dict[int, float]:
    """Return the accuracy in percent of each probe that has not stopped, by its number."""
    right = {number: 0 for number, probe in enumerate(probes) if not probe.is_stopped}
    for chosen in part.batches(range(len(part.numbers)), config.batch_size):
        x, tags = part.batch(source, chosen)
        for number in right:
            right[number] += probes[number].num_right(x[number], tags)
    words = sum(map(len, part.tags))
    return {number: PERCENT * count / words for number, count in right.items()}


def _parts(sentences: dict[str, list[TaggedSentence]], tag_ids: dict[str, int]) -> dict[str, Part]:
    parts, first = {}, 0
    for name, of_part in sentences.items():
        tags = [np.array([tag_ids.get(tag, _UNKNOWN_TAG) for tag in s.tags], np.int64) for s in of_part]
        parts[name] = Part(range(first, first + len(of_part)), tags)
        first += len(of_part)
    return parts


def _count(sentences: list[TaggedSentence]) -> dict[str, int]:
    return {"sentences": len(sentences), "words": sum(len(sentence.words) for sentence in sentences)}


def _result(
    config: PosProbeConfig, scores: list[LayerScore], num_tags: int, counts: dict[str, dict[str, int]]
) -> ProbeResult:
    has_test = [name for name in ("test",) if name in counts]
    rows = [["accuracy", "dev", *has_test, "best epoch", "epochs"]]
    for score in scores:
        test = [percent(score.test)] if has_test else []
        rows.append([score.layer, percent(score.dev), *test, str(score.best_epoch), str(score.epochs)])
    words = ", ".join(f"{count['words']:,} words of {name}" for name, count in counts.items())
    source = config.checkpoint or list(config.layers)
    record = {"probe": "pos", "source": source, "tags": num_tags, "data": counts, "layers": [asdict(s) for s in scores]}
    return ProbeResult(rows, [f"{num_tags} tags; {words}"], record)
