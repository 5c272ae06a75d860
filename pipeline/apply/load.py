"""A trained biLM with its vocabulary and settings: out of a checkpoint, or of a folder to share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.config import ConfigError, PretrainConfig, require
from pipeline.finetune_config import FinetuneConfig
from pipeline.model.bilm import BiLM
from pipeline.model.hub import HubId
from pipeline.model.pretrained import is_pretrained, load_pretrained
from pipeline.read_config import from_dict
from pipeline.train.checkpoint import load_checkpoint, resolve_checkpoint
from pipeline.train.run_folder import version_of
from pipeline.train.tracking import read_metrics

_SOFTMAX = "softmax."


@dataclass
class Trained:
    """words (V): the target vocabulary, by falling count; counts (V,) of it in training, <UNK> holding all the rest.

    Both are empty where unknown, as for imported weights, which have no softmax either (bilm.has_softmax).
    has_config: whether `config` is that of the run which made the weights, and not all defaults but for the model.
    facts: what a model card tells.
    """

    path: Path
    step: int
    config: PretrainConfig
    bilm: BiLM
    words: list[str]
    counts: np.ndarray
    dataset_fingerprint: str
    has_config: bool
    facts: dict[str, Any]


def choose_device(accelerator: str) -> str:
    """cuda or cpu. Raises ConfigError where a GPU is asked for and there is none."""
    device = "cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    require(accelerator != "gpu" or device == "cuda", "accelerator=gpu, but torch finds no GPU; use cpu")
    return device


def load_trained(location: str, device: torch.device | str = "cpu", *, softmax: bool = True) -> Trained:
    """From a checkpoint file, a run's folder (its best, else its newest), a folder that `elmo export` or `elmo import`
    wrote, or such a one on the hub: ORG/NAME or ORG/NAME@REVISION. softmax: read it where there is one.

    Raises ConfigError.
    """
    folder = Path(location).expanduser()
    if (folder.is_dir() and is_pretrained(folder)) or HubId.parse(location) is not None:
        return _from_pretrained(location, device, softmax)
    if (folder / "options.json").is_file():
        raise ConfigError(f"{location} holds bilm-tf's or AllenNLP's files; read them with `elmo import` first")
    path = resolve_checkpoint(location)
    content = load_checkpoint(path)
    config = _config(content["elmo"]["config"])
    words = _words(path, content["elmo"]["vocabulary"]["words"])
    with torch.device("meta"):
        bilm = BiLM(config.model, len(words) if softmax else 0)
    state = {k: v.to(device) for k, v in content["state_dict"].items() if softmax or not k.startswith(_SOFTMAX)}
    try:
        bilm.load_state_dict(state, assign=True)
    except RuntimeError as error:  # over several lines
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path} does not hold the weights of its model ({reason}); use another one") from None
    return Trained(
        path, content["global_step"], config, bilm.eval().requires_grad_(False), words,
        content["elmo"]["vocabulary"]["counts"].numpy().copy(), content["elmo"]["identity"]["dataset"],
        True, _facts(path, content, config),
    )  # fmt: skip


def _from_pretrained(location: str, device: torch.device | str, softmax: bool) -> Trained:
    found = load_pretrained(location, softmax=softmax, device=device)
    config = PretrainConfig(model=found.config)
    if found.training is not None:
        config = _config(found.training)
    counts = np.zeros(0, np.int64) if found.counts is None else found.counts
    return Trained(
        found.path, found.facts.get("step", 0), config, found.bilm, found.words or [], counts,
        found.facts.get("corpus_fingerprint", ""), found.training is not None, found.facts,
    )  # fmt: skip


def _words(path: Path, words: torch.Tensor) -> list[str]:
    try:
        return bytes(words.numpy()).decode().split("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is damaged (its words: {error}); use another one of the run") from None


def _config(settings: dict[str, Any]) -> PretrainConfig:
    """Of the run that made the weights, a FinetuneConfig if it was a fine-tuning."""
    return from_dict(FinetuneConfig if "finetune" in settings else PretrainConfig, settings)


def _facts(path: Path, content: dict[str, Any], config: PretrainConfig) -> dict[str, Any]:
    """Where a checkpoint's weights come from; its perplexity if it was validated at that very step."""
    run_dir, step = path.absolute().parents[1], content["global_step"]
    version = version_of(run_dir)
    metrics = read_metrics(run_dir).get(step, {}) if (run_dir / "run.json").is_file() else {}
    perplexity = None
    names = {"forward": "val/perplexity_forward", "backward": "val/perplexity_backward", "both": "val/perplexity",
             "tokens": "val/tokens"}  # fmt: skip
    if metrics.keys() >= set(names.values()):
        perplexity = {name: metrics[metric] for name, metric in names.items()}
        perplexity["lanes"] = min(config.evaluate.lanes, perplexity["tokens"])
    return {
        "source": f"{path.name} of the run {config.run.name or run_dir.name}",
        "corpus": Path(config.data.path).name,
        "corpus_fingerprint": content["elmo"]["identity"]["dataset"],
        "tokens": content["elmo"]["tokens"],
        "step": step,
        "perplexity": perplexity,
        "trained_with": None if version is None else f"elmo-pipeline {version}",
    }
