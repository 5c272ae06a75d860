"""Damage bytes, JSON values and files; a random number generator chooses the damage, and a text describes it."""

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

SECRET = "s3cr3t-of-the-environment"  # the value of $FUZZ_SECRET in every case, which must not appear in any output
TEXTS = [
    "", "x", "0", "../victim", "../../victim", "/etc/passwd", "a/b", ".hidden", "..", "~", "-rf", "?x=-o/path", "a\0b",
    "pipe:touch ../victim #", "${oc.env:FUZZ_SECRET}", "${missing}", "\u202e\u0085\ufeff", "é" * 300, "w" * 5000, "{",
    "http://127.0.0.1:9/x", "file:/etc", "file:///etc/passwd", "http:/host", "@x", "*a", "!x 1", "nan", "1e999", "'",
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 1.5, -0.0, 2**31, 2**63, 10**30, 1e308, math.nan, math.inf, [], {}, [[]], [None],
    {"a": {}}, *TEXTS,
]  # fmt: skip
RAW = [
    "[" * 10_000 + "]" * 10_000,
    '{"a":' * 3000 + "1" + "}" * 3000,
    "1" * 5000,
    "1e999",
    "-",
    "nul",
    "'x'",
    '"\\ud800"',
]
_RAW_MARK = "raw json stands here"


def bytes_damaged(data: bytes, chance: Random) -> tuple[bytes, str]:
    """Return changed bytes and a description of the change."""
    for _ in range(100):
        name = chance.choice(sorted(_BYTE_DAMAGES))
        place, length = chance.randrange(len(data) + 1), chance.choice([1, 1, 2, 16, 512, 4096])
        damaged = _BYTE_DAMAGES[name](data, place, length, chance)
        if damaged != data:
            return damaged, f"{name} at byte {place} of {len(data)} (length {length})"
    return data + b"\0", "a zero byte at the end"


def _flip(data: bytes, place: int, length: int, chance: Random) -> bytes:
    if not data:
        return data
    place = min(place, len(data) - 1)
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def forged(values: Any, kind: str, chance: Random) -> Any:
    """Return an array with the fault that `kind` names: values that are not finite, another type or another shape."""
    values = values.copy()
    if kind in ("nan", "inf"):
        values.flat[chance.randrange(values.size)] = math.nan if kind == "nan" else chance.choice([math.inf, -math.inf])
    elif kind == "shape":
        return values[..., None]
    elif kind == "empty":
        return values.ravel()[:0]
    elif kind in ("float16", "float64", "int32", "bool"):
        return values.astype(kind)
    return values


FORGED = ["nan", "inf", "float16", "float64", "int32", "bool", "shape", "empty", "missing", "extra"]
HARMLESS = ["float16", "float64"]  # either converted or refused


_BYTE_DAMAGES: dict[str, Callable[[bytes, int, int, Random], bytes]] = {
    "flip": _flip,
    "flip again": _flip,
    "flip once more": _flip,
    "truncate": lambda data, at, n, chance: data[:at],
    "truncate to a block": lambda data, at, n, chance: data[: at // 512 * 512],
    "empty": lambda data, at, n, chance: b"",
    "zeros after": lambda data, at, n, chance: data[:at] + bytes(len(data) - at),  # as after a power cut
    "delete": lambda data, at, n, chance: data[:at] + data[at + n :],
    "insert": lambda data, at, n, chance: data[:at] + chance.randbytes(n) + data[at:],
    "overwrite": lambda data, at, n, chance: (data[:at] + chance.randbytes(n) + data[at + n :])[: len(data)],
    "repeat": lambda data, at, n, chance: data[: at + n] + data[at:],
    "append": lambda data, at, n, chance: data + chance.randbytes(n),
}


def json_damaged(data: bytes, chance: Random) -> tuple[bytes, str]:
    """Return JSON in which one value, one key or the whole is changed, and a description of the change."""
    whole = [json.loads(data)]
    parent, key, where = chance.choice(list(_places(whole, "")))
    action = chance.choice(["value", "value", "value", "raw", "delete", "rename", "duplicate", "swap", "nudge", "add"])
    value, raw, message = parent[key], "", ""
    if action == "value" or (action in ("delete", "rename", "duplicate") and not isinstance(parent, dict)):
        parent[key] = chance.choice(VALUES)
        message = f"{where} = {_short(parent[key])}"
    elif action == "raw":
        parent[key], raw = _RAW_MARK, chance.choice(RAW)
        message = f"{where} = {_short(raw)} as it stands"
    elif action == "nudge" and type(value) in (int, float):
        parent[key] = chance.choice([value + 1, value - 1, -value, value * 2, value * 1024, float(value), str(value)])
        message = f"{where} = {parent[key]!r} instead of {value!r}"
    elif action in ("swap", "nudge"):
        other, other_key, there = chance.choice(
            [p for p in _places(whole, "") if p[0] is not whole] or [(whole, 0, "")]
        )
        parent[key], other[other_key] = other[other_key], value
        message = f"{where} and {there} change places"
        if _is_circular(whole):
            return data[:-2], "the end is cut off"
    elif action == "add":
        target = value if isinstance(value, dict) else parent
        if isinstance(target, dict):
            target[chance.choice(TEXTS)] = chance.choice(VALUES)
        else:
            target.append(chance.choice(VALUES))
        message = f"something is added at {where}"
    else:
        items = list(parent.items())
        parent.clear()
        for name, inner in items:
            if name != key or action == "duplicate":
                parent[name] = inner
            if name == key and action != "delete":
                parent[f"{_RAW_MARK}{name}" if action == "duplicate" else f"{name}x"] = chance.choice([inner, *VALUES])
        message = f"{action} {where}"
    text = json.dumps(whole[0], ensure_ascii=chance.random() < 0.5)
    text = text.replace(json.dumps(_RAW_MARK), raw).replace(_RAW_MARK, "")
    return text.encode("utf-8", "surrogatepass"), message


def _places(value: Any, where: str) -> Iterator[tuple[Any, Any, str]]:
    """Yield (container, key or index, dotted name) of every value in a list or dict, at any depth."""
    for key in value if isinstance(value, dict) else range(len(value)):
        name = f"{where}.{key}" if where else str(key)
        yield value, key, name
        if isinstance(value[key], dict | list):
            yield from _places(value[key], name)


def _is_circular(value: Any) -> bool:
    try:
        json.dumps(value)
    except (ValueError, RecursionError):
        return True
    return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 80 else f"{text[:60]}... ({len(text)} characters)"


def damage_file(path: Path, chance: Random) -> str:
    """Damage a file in place, JSON mostly as JSON; return a description."""
    data = path.read_bytes()
    is_json = path.suffix == ".json" and chance.random() < 0.8
    damaged, message = json_damaged(data, chance) if is_json else bytes_damaged(data, chance)
    path.write_bytes(damaged)
    return f"{path.name}: {message}"


def set_in_json(path: Path, place: str, value: Any) -> str:
    """Set the value at a place ("a/0/b"; "" is the whole) of a JSON file; return a description."""
    whole = {"": json.loads(path.read_bytes())}
    *above, last = ["", *place.split("/")] if place else [""]
    container: Any = whole
    for name in above:
        container = container[int(name) if isinstance(container, list) else name]
    container[int(last) if isinstance(container, list) else last] = value
    path.write_text(json.dumps(whole[""]))
    return f"{path.name}: {place} = {_short(value)}"


def damage_folder(folder: Path, patterns: list[str], chance: Random) -> str:
    """Damage one file of a folder, or exchange, remove or replace files; return a description."""
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    path, other = chance.choice(files), chance.choice(files)
    action = chance.choice(["damage"] * 12 + ["remove", "exchange", "copy", "folder", "link"])
    if action == "damage" or (path == other and action in ("exchange", "copy")):
        return damage_file(path, chance)
    if action == "exchange":
        first, second = path.read_bytes(), other.read_bytes()
        path.write_bytes(second)
        other.write_bytes(first)
    elif action == "copy":
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
        if action == "folder":
            path.mkdir()
        elif action == "link":
            path.symlink_to(path.name)  # a loop
    return f"{action} {path.name}" + (f" {other.name}" if action in ("exchange", "copy") else "")


def signature(text: str) -> str:
    """Return a message without what differs from case to case: paths, numbers and quoted values."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "_", text)
    text = re.sub(rf"\S*{re.escape(os.sep)}\S*", "PATH", text)
    return re.sub(r"[0-9a-f]{16,}|\d[\d,.]*", "N", text)[:120]
