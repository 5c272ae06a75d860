"""Speed of embedding on this machine, compared with a plain PyTorch loop as in AllenNLP on the same text.

python -m benchmarks.embed TEXT [configs/small.yaml ...] [--sentences=600] [--rounds=2] [--threads=1] [--output=FILE]

TEXT: one tokenised sentence per line. The loop does what AllenNLP's `Elmo` does: batches of 64 in text order, padded to
the longest sentence; all 50 characters of every position encoded; cells run one direction, layer and step at a time,
with rows sorted by length so that ended rows can be left out. Both give the same vectors (checked). Weights are random.
The two take turns; each figure is the best round. On a busy machine compare CPU seconds, not wall seconds.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain import PlainCell, plain_encode
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.model.bilm import BiLM
from pipeline.model.elmo.sentence_batch import BOS, EOS, spell_sentences
from pipeline.model.elmo.sentence_encoder import SentenceEncoder

_BATCH = 64  # AllenNLP's ElmoEmbedder


class PlainElmo:
    """Compute the layers as AllenNLP does, with the weights of a BiLM."""

    def __init__(self, bilm: BiLM) -> None:
        self.bilm = bilm
        self.cells = [[PlainCell(layer, d) for d in range(2)] for layer in bilm.layers]  # type: ignore[arg-type]

    def __call__(self, sentences: list[list[str]]) -> list[Tensor]:
        """Return (L + 1, n, 2 P) for each sentence."""
        batches = [sentences[start : start + _BATCH] for start in range(0, len(sentences), _BATCH)]
        return [layers for batch in batches for layers in self._batch(batch)]

    def _batch(self, sentences: list[list[str]]) -> list[Tensor]:
        order = sorted(range(len(sentences)), key=lambda n: -len(sentences[n]))
        lengths = [len(sentences[n]) + 2 for n in order]
        spelled = spell_sentences([sentences[n] for n in order], self.bilm.config.max_characters)
        index = torch.zeros(len(order), lengths[0], dtype=torch.int64)
        for row, ids in enumerate(spelled.ids):
            index[row, : len(ids) + 2] = torch.tensor([BOS, *ids.tolist(), EOS])
        characters = torch.from_numpy(spelled.characters)[index.flatten()]  # every position, padding included
        x = plain_encode(self.bilm.encoder, characters).unflatten(0, index.shape)
        layers, streams = [torch.cat([x, x], -1)], [x, x]
        for depth, cells in enumerate(self.cells):
            outputs = [cells[d](streams[d], lengths, backward=d == 1)[0] for d in range(2)]
            residual = depth > 0 and self.bilm.config.skip_connections
            streams = [y + x if residual else y for x, y in zip(streams, outputs, strict=True)]
            layers.append(torch.cat(streams, -1))
        stacked = torch.stack(layers)
        by_number = {n: stacked[:, row, 1 : lengths[row] - 1] for row, n in enumerate(order)}
        return [by_number[n] for n in range(len(sentences))]


def ours(bilm: BiLM) -> Callable[[list[list[str]]], list[Tensor]]:
    encoder = SentenceEncoder(bilm)
    return lambda sentences: encoder.encode(sentences).sentences()


def measure(config: PretrainConfig, sentences: list[list[str]], rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    bilm = BiLM(config.model).eval().requires_grad_(False)
    ways = {"plain": PlainElmo(bilm), "ours": ours(bilm)}
    _assert_equal(*(way(sentences[:8]) for way in ways.values()))
    best = {name: [float("inf")] * 2 for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way(sentences)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            best[name] = [min(pair) for pair in zip(best[name], spent, strict=True)]
    return {
        "sentences": len(sentences), "words": sum(map(len, sentences)),
        "plain_sentences_per_second": len(sentences) / best["plain"][0],
        "sentences_per_second": len(sentences) / best["ours"][0],
        "ratio": best["plain"][0] / best["ours"][0], "cpu_ratio": best["plain"][1] / best["ours"][1],
    }  # fmt: skip


def _assert_equal(plain: list[Tensor], ours: list[Tensor]) -> None:
    worst = max(float((a - b).abs().max()) for a, b in zip(plain, ours, strict=True))
    assert worst < 1e-4, f"the two ways differ by {worst}"


def main(arguments: list[str]) -> None:
    options = {a.partition("=")[0]: a.partition("=")[2] for a in arguments if a.startswith("--")}
    text, *rest = [a for a in arguments if not a.startswith("--")]
    files = [a for a in rest if a.endswith(".yaml")] or ["configs/small.yaml", "configs/original.yaml"]
    torch.set_num_threads(int(options.get("--threads", os.cpu_count() or 1)))
    lines = Path(text).read_text(encoding="utf-8").splitlines()[: int(options.get("--sentences", 600))]
    sentences = [line.split() for line in lines if line.strip()]
    print(f"{'config':12}{'plain, sentences/s':>20}{'ours, sentences/s':>20}{'ratio':>8}{'CPU ratio':>11}")
    results = {}
    with torch.inference_mode():
        for file in files:
            row = results[Path(file).stem] = measure(
                load(PretrainConfig, [file]), sentences, int(options.get("--rounds", 2))
            )
            print(
                f"{Path(file).stem:12}{row['plain_sentences_per_second']:20.1f}{row['sentences_per_second']:20.1f}"
                f"{row['ratio']:8.2f}{row['cpu_ratio']:11.2f}"
            )
    print(json.dumps(results))
    if "--output" in options:
        Path(options["--output"]).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
