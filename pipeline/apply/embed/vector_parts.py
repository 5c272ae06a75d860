"""Compute the vectors of a text in parts. Each part is written whole or not at all, so a killed call can be repeated.

The folder holds plan.json (the settings, the text and the parts), part-N.txt (its sentences, one a line as given),
part-N.npy (their vectors end to end: (layers, words, values) of the first sentence, then of the second ...) and
part-N.json (size and checksum of part-N.npy: without it the part counts as not made).
"""

import hashlib
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_prep.dataset.files import DataError, lock_file, write_bytes, write_json
from data_prep.progress import Progress
from data_prep.text.corpus import STDIN, Source, find_sources
from data_prep.workers import ReportProgress, run_tasks
from pipeline.apply.embed import vector_plan
from pipeline.apply.embed.layer_choice import LayerChoice
from pipeline.apply.embed.text import in_blocks, read_sentences
from pipeline.apply.embed.vector_plan import PLAN, Part, Parts, Plan
from pipeline.config.schema import require
from pipeline.model.bilm import BiLM
from pipeline.model.elmo.sentence_encoder import SentenceEncoder

_MEANING = {"vectors": "layer, dtype or precision", "model": "biLM", "text": "tokenize or language"}  # for the user
_PART_SENTENCES, _PART_WORDS = 2048, 1 << 14  # bounds memory: 200 MB of float32 for `original`


@dataclass(frozen=True)
class Vectors:
    """The vectors to keep of each word. unit: scale to length 1, for cosines. precision: 32-true or bf16-mixed."""

    choice: LayerChoice
    dtype: str
    precision: str = "32-true"
    unit: bool = False


@dataclass(frozen=True)
class Text:
    input: list[str]
    tokenize: bool = False
    language: str = "en"


def plan_parts(
    folder: Path, text: Text, vectors: Vectors, bilm: BiLM, output: Path, overwrite: bool, elsewhere: str
) -> Parts:
    """Return the folder's plan; make it if there is none. Raises ConfigError if the plan has other settings.

    elsewhere: what the user may give so that these vectors come to another folder.

    The whole text is read and checked first, so that a fault in its last line shows before hours of work. Of the tasks
    of an array that start together one makes the plan, and the others wait for it.
    """
    sources = find_sources(text.input, [], str(output))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".plan.lock").open("a") as lock:
        lock_file(lock, wait=True)
        return _plan_parts(folder, text, sources, vectors, bilm, overwrite, elsewhere)


def _plan_parts(
    folder: Path, text: Text, sources: list[Source], vectors: Vectors, bilm: BiLM, overwrite: bool, elsewhere: str
) -> Parts:
    identity: dict[str, Any] = {
        "input": [source.identity() for source in sources],
        "text": {"tokenize": text.tokenize, "language": text.language},
        "model": digest(bilm),
        "width": 2 * bilm.config.projection_dim,
        "vectors": {**asdict(vectors), "choice": _plain(vectors.choice)},
        "part": [_PART_SENTENCES, _PART_WORDS],
    }
    is_read_again = STDIN in text.input
    before = _begun(folder, identity, overwrite, is_read_again, elsewhere)
    if before is not None and not is_read_again:
        return before
    if before is None:
        vector_plan.clear(folder)  # nothing tells what vectors without a plan are
    rows, files = _write_texts(folder, text, sources)
    require(bool(rows), f"input={' '.join(text.input)} has no text; give files of one sentence a line")
    sentences, words = sum(row.sentences for row in rows), sum(row.words for row in rows)
    plan = Plan(identity, files, sentences, words, rows).sealed()
    write_json(folder / PLAN, asdict(plan))
    vector_plan.remove_texts_from(folder, len(rows))
    parts = Parts(folder, plan)
    if before is not None:
        parts.check()
    return parts


def _begun(
    folder: Path, identity: dict[str, Any], overwrite: bool, is_read_again: bool, elsewhere: str
) -> Parts | None:
    """Return the parts of this identity in the folder, None if there are none or they are to be overwritten.

    is_read_again: the text may differ from before, so that parts may not match the plan.
    """
    if not (folder / PLAN).exists():
        return None
    try:
        plan = vector_plan.load_plan(folder)
        differing = [name for name in identity if plan.identity.get(name) != identity[name]]
        if not differing:
            parts = Parts(folder, plan)
            if not is_read_again:
                parts.check(checksums=overwrite)  # what the vectors' readers refuse, overwrite=true begins anew
            return parts
    except DataError:
        if not overwrite:
            raise
        return None
    what = " and ".join(_MEANING.get(name, name) for name in differing)
    require(
        overwrite,
        f"{folder} holds work that was begun with another {what}; repeat that, or use overwrite=true or {elsewhere}",
    )
    return None


def _plain(choice: LayerChoice) -> dict[str, Any]:
    """Return the choice as JSON would return it."""
    return {**asdict(choice), "weights": list(choice.weights), "count": choice.count}


def _write_texts(folder: Path, text: Text, sources: list[Any]) -> tuple[list[Part], list[tuple[str, int]]]:
    """Write the texts of the parts; return the parts, and (path, first sentence) of each file."""
    rows: list[Part] = []
    files: list[tuple[str, int]] = []
    total = 0
    sentences = read_sentences(sources, text.tokenize, text.language)
    for number, block in enumerate(in_blocks(sentences, _PART_SENTENCES, _PART_WORDS)):
        for offset, sentence in enumerate(block):
            if not files or files[-1][0] != sentence.path:
                files.append((sentence.path, total + offset))
        content = "".join(f"{sentence.text}\n" for sentence in block).encode()
        path = vector_plan.part_path(folder, number, "txt")
        if not path.exists() or path.read_bytes() != content:  # left by a killed call, or other standard input
            vector_plan.remove_vectors(folder, number)
            write_bytes(path, content)
        words = sum(len(sentence.words) for sentence in block)
        rows.append(Part(number, total, len(block), words, hashlib.sha256(content).hexdigest()))
        total += len(block)
    return rows, files


def digest(bilm: BiLM) -> str:
    """Return a hash of weights and settings, without the softmax."""
    sha256 = hashlib.sha256(repr(sorted(vars(bilm.config).items())).encode())
    for name, tensor in sorted(bilm.state_dict().items()):
        if not name.startswith("softmax."):
            sha256.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()


def _describe_sentences(sentences: int, per_second: float) -> str:
    return f"{sentences:,} sentences, {per_second:,.1f} sentences/s"


@dataclass(frozen=True)
class Machine:
    """workers: processes of this call. task, tasks: this call's share of the parts. threads: None: torch's default."""

    device: str = "cpu"
    workers: int = 1
    threads: int | None = None
    task: int = 0
    tasks: int = 1


def make_parts(parts: Parts, bilm: BiLM, vectors: Vectors, machine: Machine) -> None:
    """Make all missing parts of this task. bilm: on the CPU."""
    mine = parts.parts[machine.task :: machine.tasks]
    missing = {part.number for part in parts.missing()}
    todo = [part for part in mine if part.number in missing]
    done = [part for part in mine if part.number not in missing]
    progress = Progress("embedding", sum(part.words for part in mine), describe=_describe_sentences)
    shares = [todo[share :: machine.workers] for share in range(machine.workers)]
    devices = [_device_of(machine.device, rank) for rank in range(machine.workers)]
    arguments = [
        (parts, share, bilm, vectors, device, machine.threads)
        for share, device in zip(shares, devices, strict=True)
        if share
    ]
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
        parts.write(part.number, _embed(encoder, parts.sentences(part.number), vectors))
        words, sentences = words + part.words, sentences + part.sentences
        report(words, sentences)


@torch.inference_mode()
def _embed(encoder: SentenceEncoder, sentences: list[list[str]], vectors: Vectors) -> np.ndarray:
    """Return the chosen vectors (layers, n, 2 P) of all sentences, end to end in one array."""
    lengths = np.array([len(words) for words in sentences], np.int64)
    width = vectors.choice.count * 2 * encoder.bilm.config.projection_dim
    begin = np.concatenate([[0], np.cumsum(lengths)]) * width
    flat = np.empty(int(begin[-1]), vectors.dtype)
    device = encoder.bilm.device.type
    autocast = torch.autocast(device, torch.bfloat16) if vectors.precision == "bf16-mixed" else nullcontext()
    with autocast:
        for group in encoder.encode_groups(encoder.spell(sentences)):
            chosen = replace(group, layers=vectors.choice.of(group.layers)).word_vectors().float()
            if vectors.unit:
                chosen = torch.nn.functional.normalize(chosen, dim=-1)
            values, first = chosen.cpu().numpy(), 0
            for number, length in zip(group.numbers.tolist(), group.lengths.tolist(), strict=True):
                flat[begin[number] : begin[number + 1]] = values[:, first : first + length].ravel()
                first += length
    return flat
