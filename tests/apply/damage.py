"""Damage a JSON file in many ways: replace values, remove keys, flip bits, cut it, and fill it with zeros."""

import json
import random
from collections.abc import Iterator
from typing import Any

STRANGE: tuple[Any, ...] = (
    None, True, -1, 10**30, 10**400, 1e-308, 1e300, float("nan"), float("inf"), "", "x", "\x1b[2J", [], {}, [[1]],
    {"a": {}},
)  # fmt: skip


def mutations(text: bytes, seed: int, every: int = 1) -> Iterator[bytes]:
    """Yield damaged versions of a JSON or JSON Lines file; about one in `every`, chosen by the seed."""
    chance = random.Random(seed)
    for damaged in (*_of_bytes(text, chance), *_of_values(text)):
        if chance.randrange(every) == 0:
            yield damaged


def _of_bytes(text: bytes, chance: random.Random) -> Iterator[bytes]:
    yield from (b"", b"\0" * len(text), b"\xff\xfe" + text, b"[" * 10_000, b"null", b"7", b"[1, 2]", b"{}", text * 2)
    for cut in range(1, len(text), max(1, len(text) // 20)):
        yield text[:cut]
    for _ in range(60):
        flipped = bytearray(text)
        flipped[chance.randrange(len(text))] ^= 1 << chance.randrange(8)
        yield bytes(flipped)


def _of_values(text: bytes) -> Iterator[bytes]:
    lines = text.splitlines(keepends=True)
    try:
        head, rest = json.loads(text), b""
    except ValueError:  # JSON Lines: damage the last line
        head, rest = json.loads(lines[-1]), b"".join(lines[:-1])
    for path in _paths(head):
        for value in (*STRANGE, _DELETE):
            yield rest + json.dumps(_changed(head, path, value)).encode() + b"\n"


_DELETE = object()


def _paths(value: Any) -> Iterator[tuple[Any, ...]]:
    keys = value.keys() if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield (key,)
        yield from ((key, *path) for path in _paths(value[key]))


def _changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = dict(value) if isinstance(value, dict) else list(value)
    inner = _changed(copied[path[0]], path[1:], new)
    if inner is _DELETE:
        del copied[path[0]]
    else:
        copied[path[0]] = inner
    return copied
