"""bilm-tf's own test model with its sentences, from ../shared, and a function that embeds a sentence."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.model.bilm import BiLM, States
from tests.model import tiny

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "bilm-tf"
needs_fixtures = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason=f"the reference's test model is not at {FIXTURES}; see elmo-numerics, Conformance"
)


def embed(bilm: BiLM, sentence: str, states: States) -> tuple[np.ndarray, States]:
    """Return (layers, words, 2 P) of a sentence without its bounds, and the states after the sentence."""
    words = ["<S>", *sentence.split(), "</S>"]
    both = [[[word] for word in words], [[word] for word in reversed(words)]]
    with torch.no_grad():
        layers, states = bilm(tiny.window(both, bilm.config.max_characters), states)
    forward_backward = [torch.cat([layer[0, 1:-1, 0], layer[1, :, 0].flip(0)[1:-1]], 1) for layer in layers]
    return torch.stack(forward_backward).numpy(), states


def lists() -> list[list[str]]:
    return json.loads((FIXTURES / "lm_embeddings_sentences.json").read_text())
