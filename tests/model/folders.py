"""Edit model folders as somebody else might; records and hashes are kept right on request."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file


def edit(folder: Path, change: Callable[[dict[str, Any]], Any], rehash: bool = True) -> None:
    """Change config.json; with `rehash`, write the hash of the changed settings too."""
    described = json.loads((folder / "config.json").read_text())
    change(described)
    if rehash and isinstance(described.get("model"), dict) and "model_sha256" in described:
        text = json.dumps(described["model"], sort_keys=True, separators=(",", ":"))
        described["model_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(described))


def replace(folder: Path, name: str, data: bytes) -> None:
    """Replace the content of a file, and its record in config.json."""
    (folder / name).write_bytes(data)
    record = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(folder, lambda c: c["files"].update({name: record}))


def replace_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], name: str) -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / "new")
    replace(folder, name, (folder / "new").read_bytes())
