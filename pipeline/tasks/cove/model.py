"""A trained CoVe: a folder with the translation encoder and its word vectors, which gives layers of sentences.

config.json is written last and holds the checksums of the other files; a folder without it is no model.
Files: config.json, model.safetensors (vectors, encoder.*), vocabulary.txt (a word a line, in the order of the vectors).
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from typing_extensions import TypedDict

from data_prep.dataset.files import DataError, sha256_of, write_bytes, write_json
from data_prep.dataset.locations import local_path
from data_prep.dataset.typed_json import Count, Sha256, load_json
from pipeline.config.schema import ConfigError, require
from pipeline.config.task_networks import Case
from pipeline.model.formats.weight_checks import check_finite, check_shapes
from pipeline.tasks.cove.encoder import TranslationEncoder, encoder_shapes
from pipeline.tasks.networks.sequences import UNKNOWN, WordTable, padded

FORMAT, VERSION = "elmo-pipeline cove", 1
CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.txt"
_REMEDY = "copy the folder again from where it was written"
_BATCH_TEXTS, _BATCH_WORDS = 256, 1 << 13
Text = tuple[str, ...]


class _Format(TypedDict):
    format: str


class _SavedCove(TypedDict):
    format: str
    format_version: int
    vectors_dim: Count
    hidden: Count
    num_layers: Count
    case: Case
    scores: dict[str, float]
    weights_bytes: Count
    weights_sha256: Sha256
    vocabulary_sha256: Sha256


class Cove(nn.Module):
    """Layers of sentences: the fixed word vector, then the output of each layer of the translation encoder.

    All layers have one width; what is narrower, as the word vector often is, ends in zeros. A word without a vector is
    zero in layer 0.
    """

    vectors: Tensor
    token_layer = "word vectors"

    def __init__(self, words: WordTable, vectors: Tensor, encoder: TranslationEncoder) -> None:
        """vectors (V, D): one a word of the table."""
        super().__init__()
        self.words, self.encoder = words, encoder
        self.register_buffer("vectors", vectors)
        self.hidden = encoder.layers[0].hidden_size
        self.scores: dict[str, float] = {}
        self.requires_grad_(False)

    @property
    def num_layers(self) -> int:
        """Layer 0 included."""
        return len(self.encoder.layers) + 1

    @property
    def width(self) -> int:
        return max(self.vectors.shape[1], 2 * int(self.hidden))  # type: ignore[arg-type]

    @property
    def is_trained(self) -> bool:
        return any(weight.requires_grad for weight in self.parameters())

    def forward(self, texts: Sequence[Text]) -> Tensor:
        """Return (layers, B, T, width), zeros after a text's end; with gradients if the encoder is trained."""
        lengths = torch.tensor([len(text) for text in texts])
        ids = padded([self.words.ids(text) for text in texts], max(1, int(lengths.max()))).to(self.vectors.device)
        known = (ids > UNKNOWN)[..., None]
        x_btd = torch.nn.functional.embedding((ids - UNKNOWN - 1).clamp(min=0), self.vectors) * known
        outputs, _ = self.encoder(x_btd, lengths)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None])[..., None].to(ids.device)
        layers = [nn.functional.pad(layer, (0, self.width - layer.shape[2])) for layer in (x_btd, *outputs)]
        return torch.stack(layers) * mask

    @torch.no_grad()
    def embed(self, texts: Sequence[Text]) -> list[Tensor]:
        """Return (layers, words, width) of each text, without gradient; texts of about the same length together."""
        found: list[Tensor] = [torch.zeros(0)] * len(texts)
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        while order:
            size = max(1, min(_BATCH_TEXTS, _BATCH_WORDS // max(1, len(texts[order[-1]]))))
            chosen, order = order[-size:], order[:-size]
            layers = self([texts[number] for number in chosen])
            for row, number in enumerate(chosen):
                found[number] = layers[:, row, : len(texts[number])]
        return found

    def cache_vocabulary(self, words: Sequence[str]) -> None:
        """Do nothing: word vectors are looked up."""

    def digest(self) -> str:
        """Return a hash of all that the layers depend on."""
        found = hashlib.sha256(repr((FORMAT, self.words.case)).encode())
        for word in self.words.words:
            found.update(word.encode() + b"\n")
        for name, tensor in sorted(self.state_dict().items()):
            found.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the model into `folder`, replacing one that is there. Raises ConfigError for weights that diverged."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        check_finite(tensors, "this translation encoder")
        write_bytes(folder / WEIGHTS, save(tensors))
        write_bytes(folder / VOCABULARY, "".join(f"{word}\n" for word in self.words.words).encode())
        described: _SavedCove = {
            "format": FORMAT,
            "format_version": VERSION,
            "vectors_dim": self.vectors.shape[1],
            "hidden": int(self.hidden),  # type: ignore[arg-type]
            "num_layers": len(self.encoder.layers),
            "case": self.words.case,
            "scores": self.scores,
            "weights_bytes": (folder / WEIGHTS).stat().st_size,
            "weights_sha256": sha256_of(folder / WEIGHTS),
            "vocabulary_sha256": sha256_of(folder / VOCABULARY),
        }
        write_json(folder / CONFIG, described)

    @classmethod
    def from_pretrained(cls, location: str | Path, device: torch.device | str = "cpu") -> "Cove":
        """Open a folder that `elmo cove` wrote. Raises ConfigError."""
        folder = local_path(location)
        require(is_cove(folder), f"{location} is no model of `elmo cove`; give RUN_DIR/model of `elmo cove train`")
        saved: _SavedCove = load_json(folder / CONFIG, _SavedCove, _REMEDY, ConfigError)
        version = saved["format_version"]
        require(version == VERSION, f"{folder / CONFIG} is of version {version}, not {VERSION}; train again")
        _check_file(folder / WEIGHTS, saved["weights_sha256"])
        _check_file(folder / VOCABULARY, saved["vocabulary_sha256"])
        words = (folder / VOCABULARY).read_bytes().decode().split("\n")[:-1]
        try:
            tensors = load_file(folder / WEIGHTS)
        except SafetensorError as error:
            raise ConfigError(f"{folder / WEIGHTS} is damaged ({error}); {_REMEDY}") from None
        sizes = saved["vectors_dim"], saved["hidden"], saved["num_layers"]
        wanted = ((f"encoder.{name}", shape) for name, shape in encoder_shapes(*sizes))
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        require(found.pop("vectors", None) == (len(words), sizes[0]), f"{folder}: its files do not fit; {_REMEDY}")
        check_shapes(found, wanted, str(folder / WEIGHTS), CONFIG)
        require(saved["num_layers"] > 0, f"{folder / CONFIG} has no layers; {_REMEDY}")
        model = cls(WordTable(tuple(words), saved["case"]), tensors.pop("vectors"), TranslationEncoder(*sizes))
        model.encoder.load_state_dict({name.removeprefix("encoder."): tensor for name, tensor in tensors.items()})
        model.scores = saved["scores"]
        return model.to(device).eval()


def is_cove(location: str | Path) -> bool:
    """Return whether a folder holds a model of `elmo cove`."""
    path = Path(location) / CONFIG
    try:
        found: _Format = load_json(path, _Format, _REMEDY)
    except (DataError, OSError):
        return False
    return found["format"] == FORMAT


def vectors_of(words: Sequence[str], values: np.ndarray, case: Case) -> tuple[WordTable, Tensor]:
    """Return the table and the (V, D) vectors of a model."""
    return WordTable(tuple(words), case), torch.from_numpy(np.ascontiguousarray(values, np.float32))


def _check_file(path: Path, sha256: str) -> None:
    found = sha256_of(path) if path.is_file() else None
    require(found == sha256, f"{path} is missing or not the file that {CONFIG} was written with; {_REMEDY}")
