"""Measure the speed of embedding, compared with a plain PyTorch loop as in AllenNLP on the same text.

python -m benchmarks.embed TEXT [configs/small.yaml ...] [--sentences=600] [--rounds=2] [--threads=1] [--output=FILE]

TEXT: one tokenised sentence per line. The loop does what AllenNLP's `Elmo` does: batches of 64 in text order, padded to
the longest sentence; all 50 characters of every position encoded; cells run one direction, layer and step at a time,
with rows sorted by length so that ended rows can be left out. Both give the same vectors (checked). Weights are random.
The two take turns; each figure is the best round. On a busy machine compare CPU seconds, not wall seconds.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure.clock import Seconds, seconds_of
from benchmarks.measure.command import split_options, table, write_result, yaml_files
from benchmarks.measure.plain_elmo import PlainElmo
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.model.bilm import BiLM
from pipeline.model.elmo.sentence_encoder import SentenceEncoder

Way = Callable[[list[list[str]]], list[Tensor]]


def measure(config: PretrainConfig, sentences: list[list[str]], rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    bilm = BiLM(config.model).eval().requires_grad_(False)
    encoder = SentenceEncoder(bilm)
    ways: dict[str, Way] = {"plain": PlainElmo(bilm), "ours": lambda text: encoder.encode(text).sentences()}
    both = zip(*(way(sentences[:8]) for way in ways.values()), strict=True)
    worst = max(float((a - b).abs().max()) for a, b in both)
    assert worst < 1e-4, f"the two ways differ by {worst}"
    times: dict[str, list[Seconds]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds_of(lambda way=way: way(sentences)))
    (plain, plain_cpu), (wall, cpu) = ([min(column) for column in zip(*times[name], strict=True)] for name in ways)
    result = {"sentences": len(sentences), "words": sum(map(len, sentences)), "ratio": plain / wall}
    result |= {"plain_sentences_per_second": len(sentences) / plain, "sentences_per_second": len(sentences) / wall}
    return result | {"cpu_ratio": plain_cpu / cpu}


def main(arguments: list[str]) -> None:
    """Print the table and, with --output, write the figures as JSON."""
    options, rest = split_options(__doc__, arguments, sentences=600, rounds=2)
    files, texts = yaml_files(rest, "configs/small.yaml", "configs/original.yaml")
    if len(texts) != 1:
        raise SystemExit("give one argument besides configs: TEXT")
    lines = Path(texts[0]).read_text(encoding="utf-8").splitlines()[: options["sentences"]]
    sentences = [line.split() for line in lines if line.strip()]
    with torch.inference_mode():
        results = {Path(f).stem: measure(load(PretrainConfig, [f]), sentences, options["rounds"]) for f in files}
    figures = ("plain_sentences_per_second", "sentences_per_second", "ratio", "cpu_ratio")
    rows = [[name, *(f"{row[figure]:,.1f}" for figure in figures)] for name, row in results.items()]
    print(table(["config", "plain, sentences/s", "ours, sentences/s", "ratio", "CPU ratio"], rows))
    write_result(options["output"], results)


if __name__ == "__main__":
    main(sys.argv[1:])
