"""Elmo: an ElmoModule that is loaded from a model folder or the hub, and saved to a folder with its learned mixes."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le, Predicate
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.typed_json import parse_json
from pipeline.config.schema import ConfigError, require
from pipeline.model.elmo.elmo import ElmoModule
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


class Elmo(ElmoModule):
    """ELMo as a layer of a task model: a biLM and any number of mixes of its layers."""

    _saved_with: dict[str, Any] | None = None  # words, counts and facts of the folder that it was loaded from

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
        saved = self._saved_with or {}
        mixes = [{name: value.tolist() for name, value in mix.state_dict().items()} for mix in self.mixes]
        facts = {**saved.get("facts", {}), _OPTIONS: {**self.options, "mixes": mixes}}
        return save_pretrained(folder, self.bilm, **{**saved, "facts": facts}, overwrite=overwrite)

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
