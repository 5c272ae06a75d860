"""`elmo score`: log-probability of sentences forward and backward, and surprisal of each word, by full softmax.

Each sentence starts cold. The numbers are those of `elmo evaluate`: </S> (forward) and <S> (backward) are predicted
too, and a word outside the vocabulary counts as <UNK>.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import torch

from data_prep.dataset.files import DataError, atomic_file, describe_os_error
from data_prep.dataset.lexicon import BOS_ID, EOS_ID, UNK_ID
from data_prep.dataset.locations import local_path
from data_prep.text.corpus import find_sources
from pipeline.apply.embed.text import Sentence, in_blocks, read_sentences
from pipeline.apply.load import load_trained
from pipeline.config.commands import ScoreConfig
from pipeline.config.schema import require
from pipeline.config.terminal import printable
from pipeline.model.backend.device import choose_device
from pipeline.model.elmo.sentence_encoder import EncodedGroup, SentenceEncoder
from pipeline.model.language_model import LanguageModel
from pipeline.train.fast_path.trust import fast_path

_BLOCK_SENTENCES, _BLOCK_WORDS = 1024, 1 << 13  # scored together, to bound memory
_UNKNOWN_MARK = "*"


@dataclass(frozen=True)
class SentenceScore:
    """A scored sentence. nats (2, n + 1): -log p of each target; forward w1 ... wn </S>, backward <S> w1 ... wn.

    unknown: positions of words scored as <UNK>.
    """

    sentence: Sentence
    nats: np.ndarray
    unknown: list[int]

    @property
    def log_probabilities(self) -> tuple[float, float]:
        """Return the natural logarithms, forward and backward."""
        return -float(self.nats[0].sum()), -float(self.nats[1].sum())

    @property
    def surprisals(self) -> np.ndarray:
        """Return (2, n): bits of each word, forward and backward."""
        return np.stack([self.nats[0, :-1], self.nats[1, 1:]]) / math.log(2)

    @property
    def bounds(self) -> tuple[float, float]:
        """Return the bits of </S> after the sentence and of <S> before it."""
        return float(self.nats[0, -1]) / math.log(2), float(self.nats[1, 0]) / math.log(2)


@dataclass
class Scores:
    """The totals of a text. Perplexity is that of `elmo evaluate`, but each sentence starts cold."""

    nats: np.ndarray = field(default_factory=lambda: np.zeros(2))
    sentences: int = 0
    tokens: int = 0
    unknown: int = 0

    def add(self, score: SentenceScore) -> None:
        self.nats += score.nats.sum(1)
        self.sentences += 1
        self.tokens += score.nats.shape[1]
        self.unknown += len(score.unknown)

    @property
    def perplexities(self) -> tuple[float, float, float]:
        """Return perplexity forward, backward and over both."""
        return tuple(math.exp(n / self.tokens) for n in (*self.nats, self.nats.mean()))  # type: ignore[return-value]

    def __str__(self) -> str:
        if not self.tokens:
            return "no sentences"
        forward, backward, both = self.perplexities
        return (
            f"{self.sentences:,} sentences, {self.tokens:,} predictions each way ({self.unknown:,} words as <UNK>): "
            f"perplexity forward {forward:.2f}, backward {backward:.2f}, both {both:.2f}; each sentence started cold"
        )


class Scorer:
    """Score sentences with a language model and its vocabulary."""

    def __init__(self, model: LanguageModel, words: list[str]) -> None:
        self.model, self._ids = model, {word: number for number, word in enumerate(words)}
        self._encoder = SentenceEncoder(model)

    @torch.inference_mode()
    def score(self, sentences: list[Sentence]) -> list[SentenceScore]:
        """Return the scores in the order of `sentences`, each of which has at least one word."""
        targets = [
            np.array([self._ids.get(word, UNK_ID) for word in sentence.words], np.int64) for sentence in sentences
        ]
        found: list[SentenceScore | None] = [None] * len(sentences)
        for group in self._encoder.encode_groups(self._encoder.spell([sentence.words for sentence in sentences])):
            nats = self._nats(group, [targets[number] for number in group.numbers])
            for number, row in zip(group.numbers.tolist(), nats, strict=True):
                unknown = np.flatnonzero(targets[number] == UNK_ID).tolist()
                found[number] = SentenceScore(sentences[number], row, unknown)
        return [score for score in found if score is not None]

    def _nats(self, group: EncodedGroup, targets: list[np.ndarray]) -> list[np.ndarray]:
        """Return nats (2, n + 1) of each sentence, in the order of its words."""
        columns = [np.stack([[*ids, EOS_ID], [*ids[::-1], BOS_ID]]) for ids in targets]
        column = np.repeat(np.arange(len(columns)), [c.shape[1] for c in columns])
        step = np.concatenate([np.arange(c.shape[1]) for c in columns])
        top = group.layers[-1][:, torch.from_numpy(step), torch.from_numpy(column)]
        wanted = torch.from_numpy(np.concatenate(columns, 1)).to(top.device)
        losses = self.model.softmax.full_loss(top.flatten(0, 1), wanted.flatten()).view_as(wanted)
        nats = losses.cpu().numpy().astype(np.float64)  # not on the device: MPS has no float64
        parts = np.split(nats, np.cumsum([c.shape[1] for c in columns])[:-1], 1)
        return [np.stack([part[0], part[1, ::-1]]) for part in parts]


def score(config: ScoreConfig) -> Scores:
    """Score the sentences of a text, without empty lines; write each as it comes, and return the totals."""
    require(bool(config.checkpoint), "checkpoint= is missing: give a checkpoint, a run's folder or an exported model")
    require(bool(config.input), "input= is missing: give files, folders or globs, or - for standard input")
    output = local_path(config.output, "output")
    require(output.parent.is_dir(), f"output={output}: there is no folder {output.parent}; make it first")
    form = output.suffix
    require(form in ("", ".jsonl", ".tsv"), f"output={config.output} must end in .jsonl or .tsv")
    device = choose_device(config.accelerator)
    if config.threads:
        torch.set_num_threads(config.threads)
    sources = find_sources(config.input, [], config.output or "score")
    trained = load_trained(config.checkpoint, device)
    model = trained.language_model(
        f"checkpoint={config.checkpoint} has no softmax, without which nothing can be scored; give the run it came "
        "from, or an export of it with format=elmo"
    )
    totals, scorer = Scores(), Scorer(model, trained.words)
    autocast = torch.autocast(device, torch.bfloat16) if config.precision == "bf16-mixed" else nullcontext()
    sentences = (s for s in read_sentences(sources, config.tokenize, config.language) if s.words)
    try:
        with fast_path(device), _output(config.output) as file, autocast:
            for block in in_blocks(sentences, _BLOCK_SENTENCES, _BLOCK_WORDS):
                for found in scorer.score(block):
                    totals.add(found)
                    _write(file, form, found)
    except OSError as error:
        raise DataError(describe_os_error(error, kept="")) from error
    return totals


@contextmanager
def _output(name: str) -> Iterator[BinaryIO | None]:
    """Yield the file, which appears once it is complete; None if the scores are printed."""
    if not name:
        print(f"{'line':>6}{'forward':>11}{'backward':>11}   natural logarithms; {_UNKNOWN_MARK} is scored as <UNK>")
        yield None
        return
    with atomic_file(local_path(name, "output")) as file:
        if name.endswith(".tsv"):
            file.write(b"file\tline\tposition\tword\tis_unknown\tforward_bits\tbackward_bits\n")
        yield file


def _write(file: BinaryIO | None, form: str, score: SentenceScore) -> None:
    if file is None:
        forward, backward = score.log_probabilities
        words = [w + _UNKNOWN_MARK * (n in score.unknown) for n, w in enumerate(score.sentence.words)]
        print(printable(f"{score.sentence.line:6}{forward:11.3f}{backward:11.3f}   {' '.join(words)}"))
    elif form == ".jsonl":
        file.write((json.dumps(_as_dict(score), ensure_ascii=False) + "\n").encode())
    else:
        file.write("".join("\t".join(map(str, row)) + "\n" for row in _as_rows(score)).encode())


def _as_dict(score: SentenceScore) -> dict[str, Any]:
    sentence, surprisals = score.sentence, score.surprisals.tolist()
    found = {"file": sentence.path, "line": sentence.line, "words": sentence.words, "unknown": score.unknown}
    found |= zip(("log_probability_forward", "log_probability_backward"), score.log_probabilities, strict=True)
    found |= zip(("surprisal_forward_bits", "surprisal_backward_bits"), surprisals, strict=True)
    return found | dict(zip(("end_forward_bits", "start_backward_bits"), score.bounds, strict=True))


def _as_rows(score: SentenceScore) -> Iterator[tuple[Any, ...]]:
    """Yield a row for <S>, for each word and for </S>."""
    end, start = score.bounds
    path, line, words, _ = score.sentence
    unknown = set(score.unknown)
    yield path, line, 0, "<S>", 0, "", start
    for n, (word, forward, backward) in enumerate(zip(words, *score.surprisals.tolist(), strict=True)):
        yield path, line, n + 1, word, int(n in unknown), forward, backward
    yield path, line, len(words) + 1, "</S>", 0, end, ""
