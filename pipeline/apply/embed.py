"""Sentences in, the biLM's layers out: stateless, so that a sentence has the same vectors in any company."""

import numpy as np
import torch
from torch import Tensor

from pipeline.characters import BEGIN_SENTENCE, BEGIN_WORD, END_SENTENCE, END_WORD, PAD, spell
from pipeline.model.bilm import BiLM, Window


@torch.no_grad()
def embed_sentences(bilm: BiLM, sentences: list[list[str]]) -> list[Tensor]:
    """For each sentence of n words its layers (L + 1, n, 2 P): [forward, backward] of each, layer 0 [token, token].

    States start cold for each sentence; padding stands behind it in both directions and so changes nothing.
    """
    words = ["<S>", "</S>", *sorted({word for sentence in sentences for word in sentence})]
    place = {word: number for number, word in enumerate(words)}
    max_characters = bilm.config.max_characters
    rows = [_bound(BEGIN_SENTENCE, max_characters), _bound(END_SENTENCE, max_characters)]
    rows += [spell(word, max_characters) for word in words[2:]]
    index = torch.zeros(2, 1 + max(map(len, sentences), default=0), len(sentences), dtype=torch.int64)
    for column, sentence in enumerate(sentences):
        ids = torch.tensor([place[word] for word in sentence], dtype=torch.int64)
        index[0, 1 : len(ids) + 1, column] = ids
        index[1, 0, column] = place["</S>"]
        index[1, 1 : len(ids) + 1, column] = ids.flip(0)
    device = bilm.device
    window = Window(torch.from_numpy(np.stack(rows)).to(device), index.to(device))
    layers, _ = bilm(window, bilm.initial_states(len(sentences)))
    return [_sentence_layers(layers, column, len(sentence)) for column, sentence in enumerate(sentences)]


def _sentence_layers(layers: list[Tensor], column: int, length: int) -> Tensor:
    forward = torch.stack([layer[0, 1 : length + 1, column] for layer in layers])
    backward = torch.stack([layer[1, 1 : length + 1, column].flip(0) for layer in layers])
    return torch.cat([forward, backward], dim=-1)


def _bound(character: int, max_characters: int) -> np.ndarray:
    row = np.full(max_characters, PAD, dtype=np.int16)
    row[:3] = BEGIN_WORD, character, END_WORD
    return row
