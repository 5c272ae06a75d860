"""Pretrain, evaluate and use ELMo's bidirectional language model (Peters et al., 2018)."""

from typing import Any

from pipeline.version import __version__

__all__ = ["Elmo", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Elmo`, and torch with it, when it is asked for: importing `pipeline` alone stays instant."""
    if name == "Elmo":
        from pipeline.model.elmo.pretrained import Elmo

        return Elmo
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
