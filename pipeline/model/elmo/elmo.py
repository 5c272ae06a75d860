"""ELMo as a layer of a task model: sentences in, learned mixes of the biLM's layers out.

By default each sentence starts from the zero state. AllenNLP's `Elmo` and bilm-tf keep states from batch to batch, as
stateful=True does here. How to move from them: docs/guide/moving.md.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import Ge, Le, Predicate
from torch import Tensor, nn
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.typed_json import parse_json
from pipeline.config.schema import ConfigError, require
from pipeline.model.bilm import BiLM
from pipeline.model.elmo.scalar_mix import ScalarMix
from pipeline.model.elmo.sentence_batch import character_ids
from pipeline.model.elmo.sentence_encoder import SentenceEncoder, Sentences, pad
from pipeline.model.formats.pretrained import Pretrained, load_pretrained, save_pretrained

_OPTIONS = "elmo"  # key in a model folder's facts for the options and mixes of this module
_MAX_OUTPUTS = 1000
_Finite = Annotated[float, Predicate(math.isfinite)]


class _SavedMix(TypedDict):
    """State of a ScalarMix: s and gamma of a learned mix, gamma of "top", the weights of a mix with given weights."""

    gamma: NotRequired[_Finite]
    scalars: NotRequired[list[_Finite]]
    fixed: NotRequired[list[_Finite]]


class _Saved(TypedDict):
    """Options saved by `Elmo.save_pretrained`. Unknown keys are refused, because they might change the vectors."""

    __pydantic_config__ = {"extra": "forbid"}  # type: ignore[misc]  # noqa: RUF012

    num_outputs: NotRequired[Annotated[int, Ge(0), Le(_MAX_OUTPUTS)]]
    layers: NotRequired[str | list[_Finite]]
    dropout: NotRequired[Annotated[float, Ge(0), Le(1)]]
    layer_norm: NotRequired[bool | Literal["allennlp"]]
    l2: NotRequired[_Finite]
    trainable: NotRequired[bool]
    stateful: NotRequired[bool]
    mixes: NotRequired[list[_SavedMix]]


class ElmoOutput(NamedTuple):
    """mixed: one (B, n, 2 P) for each mix, zeros at padding. mask (B, n) bool: True at words.

    layers (L + 1, B, n, 2 P): layer 0 is [token, token], the others are [forward, backward]; None unless requested.
    """

    mixed: list[Tensor]
    mask: Tensor
    layers: Tensor | None


class Elmo(nn.Module):
    """A biLM and any number of mixes of its layers."""

    def __init__(
        self, bilm: BiLM, num_outputs: int = 1, *, layers: str | Sequence[float] = "mix", dropout: float = 0.0,
        layer_norm: bool | str = False, l2: float = 0.0, trainable: bool = False, stateful: bool = False,
    ) -> None:  # fmt: skip
        """layers: "mix" (learned), "top", or a fixed weight for each layer. dropout: on each mix, in training.

        layer_norm: normalise each layer over all words of the batch before mixing: True as bilm-tf does, "allennlp"
        with <S> and </S> among the words. l2: lambda of `regularization`. trainable: train the biLM's weights too
        (this sets their requires_grad). stateful: rows of a batch start from the state of the batch before.
        """
        super().__init__()
        require(num_outputs >= 0, f"num_outputs={num_outputs} must not be negative")
        require(layer_norm in (True, False, "allennlp"), f"layer_norm={layer_norm!r} must be true, false or allennlp")
        self.options = {
            "num_outputs": num_outputs, "layers": layers if isinstance(layers, str) else [float(w) for w in layers],
            "dropout": dropout, "layer_norm": layer_norm, "l2": l2, "trainable": trainable, "stateful": stateful,
        }  # fmt: skip
        self.sentence_encoder = SentenceEncoder(bilm.core().requires_grad_(trainable), stateful)
        self.mixes = nn.ModuleList(
            ScalarMix(bilm.config.num_layers + 1, layers, bool(layer_norm)) for _ in range(num_outputs)
        )
        self.mixes.to(bilm.device)
        self.dropout, self.l2 = nn.Dropout(dropout), l2
        self._with_bounds = layer_norm == "allennlp"
        self._saved_with: dict[str, Any] = {}

    @property
    def bilm(self) -> BiLM:
        return self.sentence_encoder.bilm

    @property
    def output_dim(self) -> int:
        """2 P: the number of values of a word in a layer or a mix."""
        return 2 * self.bilm.config.projection_dim

    def forward(self, sentences: Sentences, return_layers: bool = False) -> ElmoOutput:
        """Return the mixes of sentences: B lists of words, or character ids (B, n, 50).

        Character ids come from `character_ids` or from AllenNLP's `batch_to_ids`.
        """
        packed = self.sentence_encoder.encode(sentences, self._with_bounds)
        mixed = [mix(packed.layers) for mix in self.mixes]
        if self._with_bounds:
            packed = packed.without_bounds()
        width = sentences.shape[1] if isinstance(sentences, Tensor) else int(packed.lengths.max(initial=0))
        places, mask = packed.places(width)
        layers = pad(packed.layers, places) if return_layers else None
        return ElmoOutput([self.dropout(pad(m, places)) for m in mixed], mask, layers)

    def embed(self, sentences: Sentences) -> list[Tensor]:
        """Return all layers (L + 1, n, 2 P) of each sentence, without padding and without gradient."""
        with torch.no_grad():
            return self.sentence_encoder.encode(sentences).sentences()

    def character_ids(self, sentences: Sequence[Sequence[str]]) -> Tensor:
        """Return (B, n, C) int64 as AllenNLP's `batch_to_ids` does: zeros after a sentence's end."""
        return torch.from_numpy(character_ids(sentences, self.bilm.config.max_characters))

    def regularization(self) -> Tensor:
        """Return lambda times the sum over the mixes of s squared, to be added to the caller's loss."""
        return self.l2 * sum((mix.squared_scalars() for mix in self.mixes), torch.zeros(()))  # type: ignore[operator]

    def cache_vocabulary(self, words: Sequence[str]) -> None:
        """Compute and cache the context-free vectors of `words`. Vectors do not change; other words take longer.

        Raises ConfigError if the biLM is trainable.
        """
        self.sentence_encoder.cache_vocabulary(words)

    def reset_states(self) -> None:
        """Start the next batch from the zero state (for stateful=True)."""
        self.sentence_encoder.reset_states()

    @classmethod
    def from_pretrained(cls, location: str | Path, device: torch.device | str = "cpu", **options: Any) -> "Elmo":
        """Load from a folder that `elmo export` or `save_pretrained` wrote, or from the hub (ORG/NAME).

        options: arguments of Elmo(...). Options that are not given keep their saved values, learned mixes included.
        """
        pretrained = load_pretrained(location, softmax=False, device=device)
        saved = _read_options(pretrained)
        mixes = saved.pop("mixes", None)
        elmo = cls(pretrained.bilm, **{**saved, **options})
        if mixes is not None and all(
            elmo.options[name] == value for name, value in saved.items() if name in ("num_outputs", "layers")
        ):
            elmo._set_mixes(mixes, pretrained.path)
        facts = {name: value for name, value in pretrained.facts.items() if name != _OPTIONS}
        elmo._saved_with = {"words": pretrained.words, "counts": pretrained.counts, "facts": facts}
        return elmo.to(device)

    def save_pretrained(self, folder: str | Path, overwrite: bool = False) -> list[Path]:
        """Write the biLM without softmax, the options and the mixes into `folder`; return the files."""
        mixes = [{name: value.tolist() for name, value in mix.state_dict().items()} for mix in self.mixes]
        facts = {**self._saved_with.get("facts", {}), _OPTIONS: {**self.options, "mixes": mixes}}
        return save_pretrained(folder, self.bilm, **{**self._saved_with, "facts": facts}, overwrite=overwrite)

    def _set_mixes(self, mixes: list[dict[str, Any]], path: Path) -> None:
        wanted = [{name: tuple(value.shape) for name, value in mix.state_dict().items()} for mix in self.mixes]
        states = [{name: torch.tensor(value) for name, value in mix.items()} for mix in mixes]
        found = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
        require(
            found == wanted,
            f"{path}: the mixes under facts.elmo do not fit its options; save the model again",
        )
        for mix, state in zip(self.mixes, states, strict=True):
            mix.load_state_dict(state)


def _read_options(pretrained: Pretrained) -> dict[str, Any]:
    saved = pretrained.facts.get(_OPTIONS, {})
    name, remedy = f"{pretrained.path}: facts.{_OPTIONS}", "save the model again"
    return dict(parse_json(json.dumps(saved).encode(), _Saved, name, remedy, ConfigError))


def representations(layers: Tensor) -> Tensor:
    """Turn (L + 1, ..., 2 P) into (2 L + 1, ..., P), the paper's R: token vector, then each layer's two directions."""
    tokens, contexts = layers[:1].chunk(2, -1)[0], layers[1:].chunk(2, -1)
    return torch.cat([tokens, torch.stack(contexts, 1).flatten(0, 1)])
