"""How alike the vectors of one word are, layer by layer, within a sense and across senses."""

from itertools import combinations, product
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from pipeline.apply.embed.embed import embed_sentences
from pipeline.apply.load import load_trained


def compare_senses(run: Path, word: str, senses: dict[str, list[str]]) -> str:
    """A table of mean cosines. senses: two lists of sentences, words parted by spaces, `word` once in each."""
    bilm = load_trained(str(run)).bilm
    lines = [f"One word, two senses: {word!r} in"]
    vectors: list[list[Tensor]] = []
    for name, texts in senses.items():
        sentences = [text.split() for text in texts]
        layers = embed_sentences(bilm, sentences)
        vectors.append([of[:, words.index(word)] for of, words in zip(layers, sentences, strict=True)])
        lines += [f"  {name:12}{text}" for text in texts]
    first, second = vectors
    same = mean_cosines([*combinations(first, 2), *combinations(second, 2)])
    other = mean_cosines(list(product(first, second)))
    lines += ["", f"  {'mean cosine':12}{'same sense':>12}{'other sense':>13}"]
    for layer, (s, o) in enumerate(zip(same, other, strict=True)):
        note = "   spelling alone: always the same" if layer == 0 else ""
        lines.append(f"  {f'layer {layer}':12}{s:12.3f}{o:13.3f}{note}")
    return "\n".join(lines)


def mean_cosines(pairs: list[tuple[Tensor, Tensor]]) -> list[float]:
    """For each layer the mean over pairs of vectors (L + 1, 2 P)."""
    return torch.stack([cosine_similarity(x, y, dim=-1) for x, y in pairs]).mean(0).tolist()
