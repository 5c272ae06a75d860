"""Tiny models and windows that the tests of the model share."""

from typing import Any

import numpy as np
import torch

from pipeline.characters import character_rows
from pipeline.config.schema import ModelConfig
from pipeline.model.bilm import Window
from pipeline.model.language_model import LanguageModel

Words = list[list[list[str]]]  # [direction][time step][lane]
SOME_WORDS = ["<S>", "</S>", "a", "the", "Zürich", "naïve", "漢字", "x" * 47, "y" * 48, "z" * 49, "é" * 30, "😀"]


def config(**changes: Any) -> ModelConfig:
    """Return the settings of a model with a few hundred values and every part turned on."""
    values: dict[str, Any] = {
        "character_dim": 3, "filters": [[1, 2], [2, 3], [4, 3]], "num_highway": 1, "lstm_dim": 6, "projection_dim": 5,
        "num_layers": 2, "cell_clip": 3.0, "proj_clip": 3.0, "dropout": 0.0,
    }  # fmt: skip
    return ModelConfig(**(values | changes))


def bilm(model: ModelConfig, vocab_size: int = 30, seed: int = 0, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Return a biLM whose parameters, including biases, are all drawn from N(0, 0.5)."""
    made = LanguageModel(model, vocab_size).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
    return made


def random_words(steps: int, lanes: int, seed: int = 0) -> Words:
    return np.random.default_rng(seed).choice(np.array(SOME_WORDS), (2, steps, lanes)).tolist()


def window(words: Words, max_characters: int = 50) -> Window:
    """Return what the data loader makes of words: each word's characters once, and its index at each place."""
    lexicon = list(dict.fromkeys(["<S>", "</S>", *(w for steps in words for row in steps for w in row)]))
    spelled = [b"", b"", *(word.encode() for word in lexicon[2:])]
    utf8 = np.frombuffer(b"".join(spelled) or b"\0", dtype=np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in spelled])])
    rows = character_rows(utf8, offsets, np.arange(len(lexicon)), max_characters)
    index = [[[lexicon.index(word) for word in row] for row in steps] for steps in words]
    return Window(torch.from_numpy(rows), torch.tensor(index))


def random_targets(vocab_size: int, steps: int, lanes: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocab_size, (2, steps, lanes), generator=torch.Generator().manual_seed(seed))
