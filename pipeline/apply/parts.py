"""Vectors of a text in parts: each is written once, whole or not at all, so any of it can be killed and run again.

In the folder: plan.json (what, of what, and the parts), part-N.txt (its sentences, one a line), part-N.npy (their
vectors end to end: (layers, words, values) of the first sentence, then of the second ...).
"""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.corpus import STDIN, find_sources
from data_prep.files import read_json, write_bytes, write_json, write_npy
from data_prep.progress import Progress
from data_prep.workers import Report, run_tasks
from pipeline.apply.layer_choice import LayerChoice
from pipeline.apply.text import in_blocks, read_sentences
from pipeline.config import ConfigError, require
from pipeline.model.bilm import BiLM
from pipeline.model.sentence_encoder import SentenceEncoder

_PART_SENTENCES, _PART_WORDS = 2048, 1 << 14  # bounds a process's memory: 200 MB of float32 for the original's layers


@dataclass(frozen=True)
class Vectors:
    """What is kept of each word. unit: scaled to length 1, for cosines. precision: 32-true or bf16-mixed."""

    choice: LayerChoice
    dtype: str
    precision: str = "32-true"
    unit: bool = False


@dataclass(frozen=True)
class Text:
    input: list[str]
    tokenize: bool = False
    language: str = "en"


@dataclass
class Part:
    """sentences, words: how many. first: number of its first sentence, from 0."""

    number: int
    first: int
    sentences: int
    words: int


class Parts:
    """A folder of parts whose plan is made."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        self.folder, self.vectors = folder, plan["identity"]["vectors"]
        self.parts = [Part(number, *row) for number, row in enumerate(plan["parts"])]
        self.width, self.files = plan["width"], plan["files"]

    def text_path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.txt"

    def vectors_path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.npy"

    def sentences(self, number: int) -> list[list[str]]:
        return [line.split(" ") if line else [] for line in self.text_path(number).read_text("utf-8").split("\n")[:-1]]

    def missing(self) -> list[Part]:
        return [part for part in self.parts if not self.vectors_path(part.number).exists()]

    def read(self, number: int) -> Iterator[tuple[list[str], np.ndarray]]:
        """Each sentence of a part with its vectors (layers, n, values), as views of a memory map."""
        flat = np.load(self.vectors_path(number), mmap_mode="r", allow_pickle=False)
        layers, begin = self.vectors["choice"]["count"], 0
        for words in self.sentences(number):
            end = begin + layers * len(words) * self.width
            yield words, flat[begin:end].reshape(layers, len(words), self.width)
            begin = end

    def place_of(self, part: Part, sentence: int) -> str:
        """FILE:LINE of a part's sentence; where text was tokenised, the line counts sentences."""
        number = part.first + sentence
        path, first = [(path, first) for path, first in self.files if first <= number][-1]
        return f"{path}:{number - first + 1}"


def plan_parts(folder: Path, text: Text, vectors: Vectors, bilm: BiLM, output: Path, overwrite: bool) -> Parts:
    """The folder's plan, made now unless it is there. Raises ConfigError where it is one of something else.

    The whole text is read and checked first: a fault in its last line shows before hours of work, not after.
    """
    sources = find_sources(text.input, [], str(output))
    identity: dict[str, Any] = {
        "input": [source.identity() for source in sources],
        "text": {"tokenize": text.tokenize, "language": text.language},
        "model": digest(bilm),
        "vectors": {**asdict(vectors), "choice": _plain(vectors.choice)},
        "part": [_PART_SENTENCES, _PART_WORDS],
    }
    path = folder / "plan.json"
    if path.exists():
        before = read_json(path)
        differing = [name for name in identity if before["identity"].get(name) != identity[name]]
        if not differing and STDIN not in text.input:
            return Parts(folder, before)
        if differing and not overwrite:
            raise ConfigError(
                f"{folder} holds work that was begun with another {' and '.join(differing)}; repeat that, or use "
                "overwrite=true or another output"
            )
        path.unlink()
        if differing:
            shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    parts = Parts(folder, {"identity": identity, "parts": [], "files": [], "width": 2 * bilm.config.projection_dim})
    rows, files = _write_texts(parts, text, sources)
    require(bool(rows), f"input={' '.join(text.input)} has no text; give files of one sentence a line")
    plan = {"identity": identity, "width": parts.width, "files": files, "parts": rows}
    write_json(path, plan)
    return Parts(folder, plan)


def _plain(choice: LayerChoice) -> dict[str, Any]:
    """As JSON gives it back."""
    return {**asdict(choice), "weights": list(choice.weights), "count": choice.count}


def _write_texts(parts: Parts, text: Text, sources: list[Any]) -> tuple[list[list[int]], list[list[Any]]]:
    """([first sentence, sentences, words] of each part, [path, first sentence] of each file)."""
    rows: list[list[int]] = []
    files: list[list[Any]] = []
    total = 0
    sentences = read_sentences(sources, text.tokenize, text.language)
    for number, block in enumerate(in_blocks(sentences, _PART_SENTENCES, _PART_WORDS)):
        for offset, sentence in enumerate(block):
            if not files or files[-1][0] != sentence.path:
                files.append([sentence.path, total + offset])
        content = "".join(" ".join(sentence.words) + "\n" for sentence in block).encode()
        path = parts.text_path(number)
        if not path.exists() or path.read_bytes() != content:  # by another plan, or a killed one of standard input
            parts.vectors_path(number).unlink(missing_ok=True)
            write_bytes(path, content)
        rows.append([total, len(block), sum(len(sentence.words) for sentence in block)])
        total += len(block)
    return rows, files


def digest(bilm: BiLM) -> str:
    """The same for the same weights and settings, wherever they lie; the softmax apart."""
    sha256 = hashlib.sha256(repr(sorted(vars(bilm.config).items())).encode())
    for name, tensor in sorted(bilm.state_dict().items()):
        if not name.startswith("softmax."):
            sha256.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()


class SentenceProgress(Progress):
    """Counts words done and shows sentences a second."""

    def update(self, done: int, words: int) -> None:
        super().update(done, words)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{words:,} sentences, {self._speed(words):,.0f}/s")

    def _line(self, words: int) -> str:
        share = f", {100 * self._done / self.total:.0f}%" if self.total else ""
        return f"{self.title}: {words:,} sentences, {self._speed(words):,.1f} sentences/s{share}"


@dataclass(frozen=True)
class Machine:
    """workers: processes of this call; task of tasks: which share of the parts it does; threads: None is torch's."""

    device: str = "cpu"
    workers: int = 1
    threads: int | None = None
    task: int = 0
    tasks: int = 1


def make_parts(parts: Parts, bilm: BiLM, vectors: Vectors, machine: Machine) -> None:
    """This task's parts are all there. bilm: on the CPU."""
    mine = parts.parts[machine.task :: machine.tasks]
    missing = {part.number for part in parts.missing()}
    todo = [part for part in mine if part.number in missing]
    done = [part for part in mine if part.number not in missing]
    progress = SentenceProgress("embedding", sum(part.words for part in mine))
    shares = [todo[share :: machine.workers] for share in range(machine.workers)]
    arguments = [
        (parts, share, bilm, vectors, _device_of(machine.device, rank), machine.threads)
        for rank, share in enumerate(shares) if share
    ]  # fmt: skip
    before = (sum(part.words for part in done), sum(part.sentences for part in done))
    run_tasks(_embed_share, arguments, machine.workers, progress, before)


def _device_of(device: str, rank: int) -> str:
    return f"cuda:{rank % torch.cuda.device_count()}" if device == "cuda" else device


def _embed_share(
    parts: Parts, share: list[Part], bilm: BiLM, vectors: Vectors, device: str, threads: int | None, report: Report
) -> None:
    if threads is not None:
        torch.set_num_threads(threads)
    encoder = SentenceEncoder(bilm.to(device))
    words = sentences = 0
    for part in share:
        write_npy(parts.vectors_path(part.number), _embed(encoder, parts.sentences(part.number), vectors))
        words, sentences = words + part.words, sentences + part.sentences
        report(words, sentences)


@torch.inference_mode()
def _embed(encoder: SentenceEncoder, sentences: list[list[str]], vectors: Vectors) -> np.ndarray:
    """The chosen vectors of all sentences end to end, each (layers, n, 2 P), as one row."""
    lengths = np.array([len(words) for words in sentences], np.int64)
    width = vectors.choice.count * 2 * encoder.bilm.config.projection_dim
    begin = np.concatenate([[0], np.cumsum(lengths)]) * width
    flat = np.empty(int(begin[-1]), vectors.dtype)
    device = encoder.bilm.device.type
    autocast = torch.autocast(device, torch.bfloat16) if vectors.precision == "bf16-mixed" else nullcontext()
    with autocast:
        for reading in encoder.read(encoder.spell(sentences)):
            chosen = reading._replace(layers=vectors.choice.of(reading.layers)).of_words().float()
            if vectors.unit:
                chosen = torch.nn.functional.normalize(chosen, dim=-1)
            values, first = chosen.cpu().numpy(), 0
            for number, length in zip(reading.numbers.tolist(), reading.lengths.tolist(), strict=True):
                flat[begin[number] : begin[number + 1]] = values[:, first : first + length].ravel()
                first += length
    return flat
