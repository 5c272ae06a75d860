"""Vectors of a text in parts: each is written once, whole or not at all, so any of it can be killed and run again.

In the folder: plan.json (what, of what, and the parts), part-N.txt (its sentences, one a line as it was given),
part-N.npy (their vectors end to end: (layers, words, values) of the first sentence, then of the second ...).
"""

import hashlib
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.dataset.files import DataError, write_bytes, write_json, write_npy
from data_prep.progress import Progress
from data_prep.text.corpus import STDIN, find_sources
from data_prep.workers import ReportProgress, run_tasks
from pipeline.apply.embed.layer_choice import LayerChoice
from pipeline.apply.embed.text import in_blocks, read_sentences
from pipeline.apply.embed.vector_plan import (
    PLAN,
    Part,
    Parts,
    Plan,
    check_plan,
    clear,
    load_plan,
    remove_texts_from,
    text_path,
    vectors_path,
)  # fmt: skip
from pipeline.config.schema import require
from pipeline.model.bilm import BiLM
from pipeline.model.elmo.sentence_encoder import SentenceEncoder

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
    width, is_read_again = 2 * bilm.config.projection_dim, STDIN in text.input
    before = _begun(folder, identity, width, overwrite, is_read_again)
    if before is not None and not is_read_again:
        return before
    if before is None:
        clear(folder)  # vectors without a plan might be of anything
    folder.mkdir(parents=True, exist_ok=True)
    rows, files = _write_texts(folder, text, sources)
    require(bool(rows), f"input={' '.join(text.input)} has no text; give files of one sentence a line")
    sentences, words = sum(row.sentences for row in rows), sum(row.words for row in rows)
    plan = Plan(identity, width, files, sentences, words, rows)
    write_json(folder / PLAN, asdict(plan))
    remove_texts_from(folder, len(rows))
    parts = Parts(folder, plan)
    if before is not None:
        parts.check()
    return parts


def _begun(
    folder: Path, identity: dict[str, Any], width: int, overwrite: bool, is_read_again: bool
) -> Parts | None:  # fmt: skip
    """The work of this identity that the folder holds, None where it holds none or that is to be overwritten.

    is_read_again: the text may be another than before, so that parts need not be those of the plan.
    """
    path = folder / PLAN
    if not path.exists():
        return None
    try:
        plan: Plan = load_plan(folder)
        differing = [name for name in identity if plan.identity.get(name) != identity[name]]
        if not differing:
            check_plan(path, plan, width)
            parts = Parts(folder, plan)
            if not is_read_again:
                parts.check()
            return parts
    except DataError:
        if not overwrite:
            raise
        return None
    require(
        overwrite,
        f"{folder} holds work that was begun with another {' and '.join(differing)}; repeat that, or use "
        "overwrite=true or another output",
    )
    return None


def _plain(choice: LayerChoice) -> dict[str, Any]:
    """As JSON gives it back."""
    return {**asdict(choice), "weights": list(choice.weights), "count": choice.count}


def _write_texts(folder: Path, text: Text, sources: list[Any]) -> tuple[list[Part], list[tuple[str, int]]]:
    """The parts, and [path, first sentence] of each file."""
    rows: list[Part] = []
    files: list[tuple[str, int]] = []
    total = 0
    sentences = read_sentences(sources, text.tokenize, text.language)
    for number, block in enumerate(in_blocks(sentences, _PART_SENTENCES, _PART_WORDS)):
        for offset, sentence in enumerate(block):
            if not files or files[-1][0] != sentence.path:
                files.append((sentence.path, total + offset))
        content = "".join(f"{sentence.text}\n" for sentence in block).encode()
        path = text_path(folder, number)
        if not path.exists() or path.read_bytes() != content:  # of a call that was killed, or other standard input
            vectors_path(folder, number).unlink(missing_ok=True)
            write_bytes(path, content)
        words = sum(len(sentence.words) for sentence in block)
        rows.append(Part(number, total, len(block), words, hashlib.sha256(content).hexdigest()))
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
    parts: Parts,
    share: list[Part],
    bilm: BiLM,
    vectors: Vectors,
    device: str,
    threads: int | None,
    report: ReportProgress,
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
        for group in encoder.encode_groups(encoder.spell(sentences)):
            chosen = group._replace(layers=vectors.choice.of(group.layers)).word_vectors().float()
            if vectors.unit:
                chosen = torch.nn.functional.normalize(chosen, dim=-1)
            values, first = chosen.cpu().numpy(), 0
            for number, length in zip(group.numbers.tolist(), group.lengths.tolist(), strict=True):
                flat[begin[number] : begin[number + 1]] = values[:, first : first + length].ravel()
                first += length
    return flat
