"""A trained task: a folder with its network, tables and biLM, which `elmo predict` and `Task.from_pretrained` open.

config.json is written last and holds the size and the SHA-256 of the weights; a folder without it is no task.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.files import sha256_of, write_bytes, write_json
from data_prep.dataset.locations import local_path
from data_prep.dataset.typed_json import Count, Sha256, load_json
from pipeline.config.load import from_dict
from pipeline.config.schema import ConfigError, require, to_dict
from pipeline.config.tasks import TaskConfig, task_schema
from pipeline.model.formats.weight_checks import check_finite, check_shapes
from pipeline.tasks.kinds import Kind, kind_of
from pipeline.tasks.layer_encoder import LayerEncoder, open_saved
from pipeline.tasks.networks.embedder import Embedder
from pipeline.tasks.networks.network import TaskNetwork
from pipeline.tasks.networks.placement import ElmoPlacement
from pipeline.tasks.networks.sequences import Batch, CharacterTable, Tables, WordTable
from pipeline.tasks.training.loader import by_length

FORMAT, VERSION = "elmo-pipeline task", 1
CONFIG, WEIGHTS, BILM = "config.json", "model.safetensors", "bilm"
_REMEDY = "copy the folder again from where it was written"
Self = TypeVar("Self", bound="Task")


class _SavedTables(TypedDict):
    words: list[str]
    characters: list[str] | None
    labels: list[str]


class _SavedTask(TypedDict):
    format: str
    format_version: int
    task: str
    config: dict[str, Any]
    tables: _SavedTables
    has_bilm: bool
    scores: NotRequired[dict[str, dict[str, float]]]
    weights_bytes: Count
    weights_sha256: Sha256


@dataclass
class Task:
    """A task's network with all that it needs to read text. elmo: None for a baseline."""

    name: str
    config: TaskConfig
    tables: Tables
    network: TaskNetwork[Any, Any, Any]
    elmo: LayerEncoder | None = None

    @property
    def kind(self) -> Kind:
        return kind_of(self.name)

    def make_batch(self, examples: Sequence[Any]) -> Batch:
        batch: Batch = self.network.make_batch(examples, self.tables)
        return batch

    def predict(self, examples: Sequence[Any], batch_size: int = 32) -> list[Any]:
        """Return one prediction an example: tags, clusters, an answer's span or a label, as the task has it."""
        self.network.eval()
        device = next(self.network.parameters()).device
        predictions: list[Any] = [None] * len(examples)
        lengths = [sum(map(len, example.texts())) for example in examples]
        for numbers in by_length(lengths, batch_size):
            batch = self.make_batch([examples[number] for number in numbers])
            if self.elmo is not None:
                with torch.no_grad():
                    batch = batch.with_elmo(self.elmo)
            for number, prediction in zip(numbers, self.network.predict(batch.to(device)), strict=True):
                predictions[number] = prediction
        return predictions

    def save(self, folder: Path, scores: dict[str, dict[str, float]] | None = None) -> None:
        """Write the task into `folder`, replacing one that is there. scores: of each file, to be kept beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        if self.elmo is not None:
            self.elmo.save(folder / BILM)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.network.state_dict().items()}
        check_finite(tensors, "this task's network")
        write_bytes(folder / WEIGHTS, save(tensors))
        characters = self.tables.characters
        described: _SavedTask = {
            "format": FORMAT,
            "format_version": VERSION,
            "task": self.name,
            "config": to_dict(self.config),
            "tables": {
                "words": list(self.tables.words.words),
                "characters": None if characters is None else list(characters.characters),
                "labels": list(self.tables.labels),
            },
            "has_bilm": self.elmo is not None,
            "scores": scores or {},
            "weights_bytes": (folder / WEIGHTS).stat().st_size,
            "weights_sha256": sha256_of(folder / WEIGHTS),
        }
        write_json(folder / CONFIG, described)

    @classmethod
    def from_pretrained(cls: type[Self], location: str | Path, device: torch.device | str = "cpu") -> Self:
        """Open a folder that `elmo task` wrote (RUN_DIR/model). Raises ConfigError."""
        folder = local_path(location)
        require(
            (folder / CONFIG).is_file(), f"{location} holds no {CONFIG}; give the model folder of an `elmo task` run"
        )
        saved: _SavedTask = load_json(folder / CONFIG, _SavedTask, _REMEDY, ConfigError)
        found = (saved["format"], saved["format_version"])
        require(
            found == (FORMAT, VERSION), f"{folder / CONFIG} is of format {found}, not {(FORMAT, VERSION)}; train again"
        )
        config = from_dict(task_schema(saved["task"]), saved["config"])
        tables = _tables(saved, config)
        tensors = _read_weights(folder / WEIGHTS, saved)
        elmo = open_saved(folder / BILM) if saved["has_bilm"] else None
        network = build_network(saved["task"], config, tables, _vectors(tensors), elmo)
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        found_shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        check_shapes(found_shapes, shapes.items(), str(folder / WEIGHTS), CONFIG)
        network.load_state_dict(tensors)
        task = cls(saved["task"], config, tables, network.to(device).eval(), elmo and elmo.to(device))
        return task


def build_network(
    task: str, config: TaskConfig, tables: Tables, vectors: np.ndarray | None, elmo: LayerEncoder | None
) -> TaskNetwork[Any, Any, Any]:
    """Return the network of a task. vectors (V + 2, D): first values of the word vectors; elmo: the biLM, if any."""
    num_characters = 0 if tables.characters is None else len(tables.characters.characters)
    embedder = Embedder(config.words, vectors, num_characters)
    if elmo is None:
        placement = ElmoPlacement(replace(config.elmo, placement="none"))
    else:
        placement = ElmoPlacement(config.elmo, elmo.num_layers, elmo.width)
    return kind_of(task).network(config.sizes, embedder, placement, tables.labels)


def _tables(saved: _SavedTask, config: TaskConfig) -> Tables:
    words, characters = saved["tables"]["words"], saved["tables"]["characters"]
    cnn = config.words.cnn
    require((cnn is None) == (characters is None), "the task's characters do not fit its config; " + _REMEDY)
    table = None
    if cnn is not None and characters is not None:
        table = CharacterTable(tuple(characters), cnn.max_characters, cnn.min_characters)
    return Tables(WordTable(tuple(words), config.words.case), table, tuple(saved["tables"]["labels"]))


def _read_weights(path: Path, saved: _SavedTask) -> dict[str, Tensor]:
    found = (path.stat().st_size, sha256_of(path)) if path.is_file() else None
    require(
        found == (saved["weights_bytes"], saved["weights_sha256"]),
        f"{path} is missing or not the file that {CONFIG} was written with; {_REMEDY}",
    )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ConfigError(f"{path} is damaged ({error}); {_REMEDY}") from None


def _vectors(tensors: dict[str, Tensor]) -> np.ndarray | None:
    values = tensors.get("embedder.vectors")
    return None if values is None else values.numpy()
