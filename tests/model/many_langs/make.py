"""Make tiny random models in the format of ELMoForManyLangs, and vectors by its own code: see README.md beside."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
CHARACTERS = [chr(k) for k in range(0x4E00, 0x4E00 + 280)] + list("abehkntßé's.") + ["\u3000"]
WORDS = ["the", "bank", "bankbank", "漢字", "é's", "\u3000", "<pad", "ab\u00adc"]
SENTENCES = [
    ["the", "bank", "then", "bank"],
    ["一丁", "bankbankbank", "bankbank", "丂七丄丅丆万丈三上下", "é's", "\u3000", ""],
    [],
    ["😀", "a<bos>", "<bos>", "<S>", "</S>", "<eos>", "<oov>", "<pad>", "<unk>", "ab\u00adc"],
    ["the"],
]
LATER = [["bank", "the", "the", "bank", "b"], ["漢字", "the", "a"], ["ab"]]
MODELS: dict[str, dict[str, Any]] = {
    "words": {
        "encoder": {"name": "elmo", "projection_dim": 4, "cell_clip": 0.6, "proj_clip": 0.7, "dim": 6, "n_layers": 2},
        "token_embedder": {
            "name": "cnn", "activation": "relu", "filters": [[1, 2], [2, 3], [4, 2]], "n_highway": 2, "word_dim": 3,
            "char_dim": 3, "max_characters_per_token": 10,
        },
        "classifier": {"name": "sampled_softmax", "n_samples": 8},
        "dropout": 0.1,
    },
    "characters": {
        "encoder": {"name": "elmo", "projection_dim": 5, "cell_clip": 3, "proj_clip": 0, "dim": 4, "n_layers": 2},
        "token_embedder": {
            "name": "cnn", "activation": "tanh", "filters": [[1, 2], [3, 3]], "n_highway": 1, "word_dim": 0,
            "char_dim": 2, "max_characters_per_token": 12,
        },
        "classifier": {"name": "sampled_softmax", "n_samples": 8},
        "dropout": 0.1,
    },
}  # fmt: skip


def write_model(folder: Path, config: dict[str, Any]) -> None:
    """Write a model with random weights, its pickles by their own classes and as their training writes them."""
    from elmoformanylangs.frontend import Model
    from elmoformanylangs.modules.embedding_layer import EmbeddingLayer

    folder.mkdir(parents=True, exist_ok=True)
    has_words = config["token_embedder"]["word_dim"] > 0
    known = CHARACTERS if has_words else CHARACTERS[-13:-1]
    characters = [*known, "<bos>", "<eos>", "<oov>", "<pad>", "<bow>", "<eow>"]
    words = ["<oov>", "<bos>", "<eos>", "<pad>", *WORDS]
    layers = []
    for name, entries in (("word", words if has_words else []), ("char", characters)):
        size = config["token_embedder"][f"{name}_dim"]
        ids = {entry: number for number, entry in enumerate(entries)}
        layers.append(EmbeddingLayer(size, ids, fix_emb=False) if entries else None)
        if entries:
            lines = "".join(f"{entry}\t{number}\n" for entry, number in ids.items())
            (folder / f"{name}.dic").write_text(lines, encoding="utf-8")
    model = Model(config, *layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.8)
    for name, part in (("token_embedder", model.token_embedder), ("encoder", model.encoder)):
        torch.save(part.state_dict(), folder / f"{name}.pkl", _use_new_zipfile_serialization=has_words)
    (folder / "config.json").write_text(json.dumps({"seed": 1, "config_path": "/home/them/configs/tiny.json"}))
    (folder / "tiny.json").write_text(json.dumps(config, indent=1))


def main() -> None:
    from elmoformanylangs import Embedder

    torch.manual_seed(0)
    for name, config in MODELS.items():
        write_model(HERE / name, config)
        vectors: dict[str, np.ndarray] = {}
        embedder = Embedder(str(HERE / name))
        for call, sentences in (("first", SENTENCES), ("later", LATER)):  # the later call starts from kept states
            for number, layers in enumerate(embedder.sents2elmo(sentences, output_layer=-2)):
                vectors[f"{call}_{number}"] = layers
        averages = Embedder(str(HERE / name)).sents2elmo([s for s in SENTENCES if s])  # fails for no words
        vectors |= {f"average_{number}": average for number, average in enumerate(averages)}
        np.savez(HERE / f"{name}.npz", **vectors)


if __name__ == "__main__":
    main()
