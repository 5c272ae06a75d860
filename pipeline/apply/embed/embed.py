"""`elmo embed`: compute the biLM's layers of sentences. A sentence's vectors do not depend on its batch."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from data_prep.dataset.files import DataError, describe_os_error
from data_prep.dataset.locations import local_path
from data_prep.workers import num_workers
from pipeline.apply.embed.layer_choice import LayerChoice
from pipeline.apply.embed.vector_files import check_sentences, format_of, write_vectors
from pipeline.apply.embed.vector_parts import Machine, Text, Vectors, make_parts, plan_parts
from pipeline.apply.embed.vector_plan import Parts
from pipeline.apply.load import load_trained
from pipeline.config.commands import EmbedConfig, NeighborsConfig
from pipeline.config.schema import ConfigError, require
from pipeline.model.backend.device import choose_device
from pipeline.model.bilm import BiLM
from pipeline.model.elmo.sentence_encoder import SentenceEncoder


@torch.no_grad()
def embed_sentences(bilm: BiLM, sentences: list[list[str]]) -> list[Tensor]:
    """Return the layers (L + 1, n, 2 P) of each sentence of n words: [forward, backward], layer 0 [token, token].

    Each sentence starts cold.
    """
    return SentenceEncoder(bilm).encode(sentences).sentences()


@dataclass(frozen=True)
class Embedded:
    """The result of `embed`. pending: parts left to other tasks. is_written: whether `output` is written."""

    output: Path
    sentences: int
    words: int
    layers: int
    pending: int
    is_written: bool

    def __str__(self) -> str:
        if not self.is_written:
            return f"{self.output}: this task's parts are done, {self.pending} are left to others"
        shape = f"{self.layers} layers" if self.layers > 1 else "one layer"
        return f"{self.output}: {self.sentences:,} sentences, {self.words:,} words, {shape}"


def embed(config: EmbedConfig) -> Embedded:
    """Write the vectors of a text to one file; parts that an earlier, killed call finished are kept."""
    require(bool(config.checkpoint), "checkpoint= is missing: give a checkpoint, a run's folder or an exported model")
    require(bool(config.input), "input= is missing: give files, folders or globs, or - for standard input")
    require(bool(config.output), "output= is missing: give a file that ends in .h5, .npz, .safetensors or .parquet")
    require(config.tasks == 1 or "-" not in config.input, "tasks= needs input that every task can read; save it first")
    format_of(config.output)
    output = local_path(config.output, "output")
    folder = output.with_name(f"{output.name}.parts")
    require(output.parent.is_dir(), f"output={output}: there is no folder {output.parent}; make it first")
    if output.exists() and not folder.exists() and not config.overwrite:
        raise ConfigError(f"output={output} is there already; give another name, or overwrite=true")
    machine = replace(machine_of(config), task=config.task, tasks=config.tasks)
    bilm = load_trained(config.checkpoint, softmax=False).bilm
    choice = LayerChoice(config.layers, bilm.config.num_layers + 1, tuple(config.weights), config.gamma)
    vectors = Vectors(choice, config.dtype, config.precision)
    try:
        text = Text(config.input, config.tokenize, config.language)
        parts = plan_parts(folder, text, vectors, bilm, output, config.overwrite, "another output")
        check_sentences(output, parts)
        make_parts(parts, bilm, vectors, machine)
        return _finish(parts, output, choice, config)
    except OSError as error:
        raise DataError(describe_os_error(error)) from error


def _finish(parts: Parts, output: Path, choice: LayerChoice, config: EmbedConfig) -> Embedded:
    """Write the file, if all parts are done and no other task may write it at the same time."""
    sentences, words = sum(part.sentences for part in parts.parts), sum(part.words for part in parts.parts)
    pending = len(parts.missing())
    is_written = config.tasks == 1 and not pending
    if is_written:
        write_vectors(output, parts, config.sentence_index)
        shutil.rmtree(parts.folder)
    return Embedded(output, sentences, words, choice.count, pending, is_written)


def machine_of(config: EmbedConfig | NeighborsConfig) -> Machine:
    """Return the device, workers and threads; workers share the cores."""
    workers = num_workers(config.workers)
    threads = config.threads or (max(1, num_workers(0) // workers) if workers > 1 else None)
    return Machine(choose_device(config.accelerator), workers, threads)
