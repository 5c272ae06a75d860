"""Load a trained biLM with its vocabulary and settings from a checkpoint or from an exported model."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.files import DataError
from data_prep.dataset.locations import local_path
from data_prep.dataset.typed_json import load_json
from pipeline.config.finetune import FinetuneConfig
from pipeline.config.load import from_dict
from pipeline.config.schema import ConfigError, PretrainConfig, require
from pipeline.data.vocabulary import words_of
from pipeline.model.affixes import AffixRows, add_shared_rows, num_shared_rows
from pipeline.model.bilm import BiLM
from pipeline.model.formats.folder_config import Pretraining
from pipeline.model.formats.hub import HubId
from pipeline.model.formats.pretrained import is_pretrained, load_pretrained
from pipeline.model.formats.weight_checks import check_finite, check_shapes, parameter_shapes
from pipeline.model.language_model import LanguageModel
from pipeline.train.run_dir.checkpoint import load_checkpoint, resolve_checkpoint
from pipeline.train.run_dir.lock import version_of
from pipeline.train.run_dir.tracking import read_metrics

log = logging.getLogger(__name__)
_SOFTMAX = "softmax."
_SHARED = _SOFTMAX + "affixes.weight"
T = TypeVar("T")


class _Source(TypedDict):
    pretrained_on: NotRequired[list[Pretraining]]


class _FinetuneRecord(TypedDict):
    source: _Source


@dataclass
class Trained:
    """A trained biLM. words (V): the target vocabulary by falling count. counts (V,): in training; <UNK> has the rest.

    bilm: a LanguageModel if its softmax was loaded. words and counts are empty if unknown, as for imported weights,
    which have no softmax either.
    settings: stored settings of the run that made the weights; None if unknown. A later version may have written
    them: only `section` and `config` read them. facts: the facts of a model card.
    """

    path: Path
    step: int
    settings: dict[str, Any] | None
    bilm: BiLM
    words: list[str]
    counts: np.ndarray
    dataset_fingerprint: str
    facts: dict[str, Any]

    @property
    def softmax_words(self) -> list[str]:
        """Return the words that have a row in the softmax, none without a softmax."""
        return self.words if isinstance(self.bilm, LanguageModel) else []

    def language_model(self, fault: str) -> LanguageModel:
        """Return the biLM with its softmax. Raises ConfigError with the text `fault` if it has none."""
        if not isinstance(self.bilm, LanguageModel):
            raise ConfigError(fault)
        return self.bilm

    @property
    def has_config(self) -> bool:
        return self.settings is not None

    @cached_property
    def config(self) -> PretrainConfig:
        """Return all settings of the run (a FinetuneConfig for a fine-tuning), with defaults for unknown ones."""
        schema = FinetuneConfig if "finetune" in (self.settings or {}) else PretrainConfig
        parts = {part.name: type(getattr(schema(), part.name)) for part in fields(schema) if part.name != "model"}
        found: dict[str, Any] = {name: self.section(name, part) for name, part in parts.items()}
        return schema(model=replace(self.bilm.config), **found)

    def section(self, name: str, schema: type[T]) -> T:
        """Return the settings under `name`, without keys that `schema` does not have. Raises ConfigError."""
        values = (self.settings or {}).get(name, {})
        require(isinstance(values, dict), f"{self.path}: {name} of its training is no section of settings")
        known = {field.name for field in fields(schema)}  # type: ignore[arg-type]
        try:
            return from_dict(schema, {key: value for key, value in values.items() if key in known})
        except ConfigError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{self.path}: {name} of its training cannot be used: {reason}") from None


def load_trained(location: str, device: torch.device | str = "cpu", *, softmax: bool = True) -> Trained:
    """Load a trained biLM. softmax: load it too, if there is one. Raises ConfigError.

    location: a checkpoint file, a run's folder (for its best checkpoint, else its newest), a folder that `elmo export`
    or `elmo import` wrote, or such a folder on the hub, ORG/NAME or ORG/NAME@REVISION.
    """
    folder = local_path(location)
    if (folder.is_dir() and is_pretrained(folder)) or HubId.parse(location) is not None:
        return _from_pretrained(location, device, softmax)
    if (folder / "options.json").is_file():
        raise ConfigError(f"{location} holds bilm-tf's or AllenNLP's files; read them with `elmo import` first")
    path = resolve_checkpoint(location)
    content = load_checkpoint(path)
    config = _config(content["elmo"]["config"])
    words = _words(path, content["elmo"]["vocabulary"])
    vocab_size = len(words) if softmax else 0
    state = {k: v.to(device) for k, v in content["state_dict"].items() if softmax or not k.startswith(_SOFTMAX)}
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = chain(parameter_shapes(config.model, vocab_size), _shared_shapes(config, vocab_size))
    check_shapes(shapes, wanted, str(path), "its settings")
    check_finite(state, str(path))
    _add_shared_rows(state, words)
    with torch.device("meta"):
        bilm = LanguageModel(config.model, vocab_size) if softmax else BiLM(config.model)
    bilm.load_state_dict(state, assign=True)
    stored = content["elmo"]
    counts, dataset = stored["vocabulary"]["counts"].numpy().copy(), stored["identity"]["dataset"]
    bilm = bilm.eval().requires_grad_(False)
    facts = _facts(path, content, config)
    return Trained(path, content["global_step"], stored["config"], bilm, words, counts, dataset, facts)


def _from_pretrained(location: str, device: torch.device | str, softmax: bool) -> Trained:
    found = load_pretrained(location, softmax=softmax, device=device)
    counts = np.zeros(0, np.int64) if found.counts is None else found.counts
    step, dataset = found.facts.get("step", 0), found.facts.get("corpus_fingerprint") or ""
    return Trained(found.path, step, found.training, found.bilm, found.words or [], counts, dataset, found.facts)


def _shared_shapes(config: PretrainConfig, vocab_size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if config.softmax.affixes and vocab_size:
        yield _SHARED, (num_shared_rows(vocab_size), config.model.projection_dim)


def _add_shared_rows(state: dict[str, torch.Tensor], words: list[str]) -> None:
    """Replace the softmax's own rows and shared rows by their sums."""
    shared = state.pop(_SHARED, None)
    if shared is not None:
        affixes = AffixRows(words, shared.shape[1]).to(shared.device)
        affixes.weight.data = shared
        state[_SOFTMAX + "weight"] = add_shared_rows(state[_SOFTMAX + "weight"], affixes)


def _words(path: Path, vocabulary: dict[str, torch.Tensor]) -> list[str]:
    try:
        return words_of(vocabulary)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is damaged (its words: {error}); use another one of the run") from None


def _config(settings: dict[str, Any]) -> PretrainConfig:
    """Return the run's config, a FinetuneConfig for a fine-tuning."""
    return from_dict(FinetuneConfig if "finetune" in settings else PretrainConfig, settings)


def _facts(path: Path, content: dict[str, Any], config: PretrainConfig) -> dict[str, Any]:
    """Return facts about a checkpoint; with its perplexity if it was validated at its step."""
    run_dir, step = path.absolute().parents[1], content["global_step"]
    version = version_of(run_dir)
    metrics = read_metrics(run_dir).get(step, {}) if (run_dir / "run.json").is_file() else {}
    perplexity = None
    names = {way: f"val/perplexity_{way}" for way in ("forward", "backward")}
    names |= {"both": "val/perplexity", "tokens": "val/tokens"}
    if metrics.keys() >= set(names.values()):
        perplexity = {name: metrics[metric] for name, metric in names.items()}
        perplexity["lanes"] = min(config.evaluate.lanes, perplexity["tokens"])
    earlier = _pretrained_on(run_dir) if "finetune" in content["elmo"]["config"] else None
    return {
        "source": f"{path.name} of the run {config.run.name or run_dir.name}",
        "corpus": Path(config.data.path).name,
        "corpus_fingerprint": content["elmo"]["identity"]["dataset"],
        "tokens": content["elmo"]["tokens"],
        **({"pretrained_on": earlier} if earlier else {}),
        "step": step,
        "perplexity": perplexity,
        "trained_with": None if version is None else f"elmo-pipeline {version}",
    }


def lineage(trained: Trained) -> list[dict[str, Any]]:
    """Return the corpora that a model was trained on, oldest first, as facts for models fine-tuned from it."""
    facts = trained.facts
    last = {name: facts.get(name) for name in ("source", "corpus", "corpus_fingerprint", "tokens")}
    return [*facts.get("pretrained_on", []), last]


def _pretrained_on(run_dir: Path) -> list[Pretraining]:
    """Return the `lineage` of a fine-tuning's source from its record (pipeline/finetune/report.py)."""
    path = run_dir / "finetune.json"
    if not path.is_file():
        return []
    try:
        record: _FinetuneRecord = load_json(path, _FinetuneRecord, "what it was pretrained on stays unknown")
    except (OSError, DataError) as error:
        log.warning("%s", error)
        return []
    return record["source"].get("pretrained_on", [])
