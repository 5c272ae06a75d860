"""What the result of a task depends on besides its settings: the bytes of its files, and the biLM's weights."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from data_prep.dataset.files import sha256_of
from data_prep.dataset.locations import local_path
from pipeline.config.tasks import TaskConfig
from pipeline.tasks.layer_encoder import LayerEncoder, open_encoder


def contents_of(config: TaskConfig, encoder: LayerEncoder | None = None) -> dict[str, str]:
    """Return a hash of each file of a task and of its biLM, by option. encoder: the biLM, if it is open already.

    Raises ConfigError or OSError for what cannot be read.
    """
    files = {f"train[{number}]": path for number, path in enumerate(config.train)}
    files |= {"dev": config.dev, "test": config.test, "vectors": config.vectors}
    found = {f"content of {name}": _hash_of(path) for name, path in files.items() if path}
    if config.elmo.is_used:
        digest = _digest_of(config.elmo.checkpoint) if encoder is None else encoder.digest()
        found["content of elmo.checkpoint"] = digest[:_SHOWN]
    return found


def content_changes(before: Mapping[str, str], config: TaskConfig) -> str:
    """Return which contents differ from those `before`, as text; empty where none does."""
    now = contents_of(config)
    return ", ".join(name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name))


_SHOWN = 16  # digits of a hash: enough to tell versions of a file apart


def _hash_of(file: str) -> str:
    path = local_path(file)
    status = path.stat()
    return _sha256_of(path, status.st_mtime_ns, status.st_size)


@lru_cache
def _sha256_of(path: Path, mtime_ns: int, num_bytes: int) -> str:
    return sha256_of(path)[:_SHOWN]


@lru_cache
def _digest_of(checkpoint: str) -> str:
    return open_encoder(checkpoint).digest()
