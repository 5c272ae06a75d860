"""Arbitrary text: bytes that are not words, and compressed files that are cut, changed or joined."""

import bz2
import gzip
import lzma
import unicodedata
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import zstandard

from tests.corpora import sentences_of
from tests.fuzz.cage import Fault, elmo, note
from tests.fuzz.mutators import bytes_damaged
from tests.fuzz.world import World

PIECES = [
    *(t.encode() for t in ("word", "wörd", "漢字", "😀", "\x85", "\x93\x94", "\u2028", "\u00a0", "\u200b", "\ufeff")),
    b"\x00", b"\x07", b"\x1b[2J", b"\x7f", b"\x85", b"\xff", b"\x93cp1252\x94", b"\xed\xa0\x80", b"\xc3",
    b"<S>", b"</S>", b"<UNK>", b"\t", b"\r", b"\x0b\x0c", b"\x1c", b"w" * 300, b"\xc3\xa9" * 60, b"=1+1", b"\\",
    b"'", b"a b c d e f g h i j k l m n o p", b"Mr. Smith isn't here.", "e\u0301".encode(), b"!!!MAXTERMID",
]  # fmt: skip
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, 
    "zst": zstandard.ZstdCompressor(write_checksum=True).compress,  # as the command zstd does
}  # fmt: skip


def text(world: World, chance: Random, folder: Path, case: int) -> None:
    """Write random pieces as lines. The dataset's words must follow Python's rules, or the text is refused."""
    path = folder / "text.txt"
    path.write_bytes(data := _random_text(chance))
    note(repr(data[:300]))
    tokenize, skip = chance.random() < 0.4, chance.random() < 0.4
    command = chance.choice(["prep", "prep", "prep", "embed", "score"])
    if command != "prep":
        _use(world, command, path, tokenize, data)
        return
    limit = chance.choice([100_000, 5])
    options = [
        f"tokenize={str(tokenize).lower()}",
        f"on_error={'skip' if skip else 'fail'}",
        f"max_sentence_words={limit}",
    ]
    note(" ".join(options))
    elmo("prep", f"input={path}", f"output={folder / 'data'}", "heldout=0", "shuffle=none", "workers=1", *options)
    found = sentences_of(folder / "data")
    if tokenize:
        _check_tokenised(data, found, skip)
        return
    lines = [_words(line, limit) for line in _without_bom(data).split(b"\n")]
    if None in lines and not skip:
        raise Fault(f"wrong result in silence: a line that should stop it is taken: {found[:3]}")
    wanted = [" ".join(words) for words in lines if words]
    if found != wanted:
        differing = [pair for pair in zip(found, wanted, strict=False) if pair[0] != pair[1]]
        raise Fault(f"wrong result in silence: {len(found)} sentences for {len(wanted)}: {differing[:1]!r}")


def _random_text(chance: Random) -> bytes:
    sound = chance.random() < 0.3
    pieces = [piece for piece in PIECES if _words(piece, 99) is not None] if sound else PIECES
    lines = []
    for _ in range(chance.randint(0, 8)):
        odd = [chance.choice(pieces) for _ in range(chance.choice([0, 0, 1, 3]))]
        words = [b"w%d" % chance.randrange(50) for _ in range(chance.randint(0, 6))] + odd
        chance.shuffle(words)
        lines.append(chance.choice([b" ", b" ", b"  ", b""]).join(words))
    data = chance.choice([b"\n", b"\n", b"\r\n", b"\n\n"]).join(lines) + chance.choice([b"\n", b""])
    return b"\xef\xbb\xbf" + data if chance.random() < 0.1 else data


def _without_bom(data: bytes) -> bytes:
    return data.removeprefix(b"\xef\xbb\xbf")


def _words(line: bytes, limit: int) -> list[str] | None:
    """Return the words of a line by the rules of data_prep/README.md, None for a line that must be refused."""
    try:
        words = line.decode().split()
    except UnicodeDecodeError:
        return None
    controls = any(unicodedata.category(character) == "Cc" for word in words for character in word)
    return None if controls or {"<S>", "</S>"} & set(words) or len(words) > limit else words


def _check_tokenised(data: bytes, found: list[str], skip: bool) -> None:
    """Check that every character except white space and controls is there once, in order."""
    try:
        wanted = _without_bom(data).decode()
    except UnicodeDecodeError:
        if skip:
            return
        raise Fault("wrong result in silence: bytes that are not UTF-8 are taken") from None
    if any("\x80" <= character <= "\x9f" for character in wanted) or skip:
        return  # cp1252 may be repaired, and lines may be left out
    if _visible("".join(found)) != _visible(wanted):
        raise Fault(f"wrong result in silence: {_visible(wanted)[:100]!r} becomes {_visible(''.join(found))[:100]!r}")


def _visible(text: str) -> str:
    return "".join(c for c in text if not c.isspace() and unicodedata.category(c) != "Cc")


def _use(world: World, command: str, path: Path, tokenize: bool, data: bytes) -> None:
    output = path.with_name("vectors.npz" if command == "embed" else "scores.jsonl")
    option = f"tokenize={str(tokenize).lower()}"
    note(f"{command} {option}")
    elmo(command, f"checkpoint={world.model}", f"input={path}", f"output={output}", option, "accelerator=cpu")
    if tokenize:
        return
    lines = _without_bom(data).removesuffix(b"\n").split(b"\n")
    words = [_words(line, 100_000) for line in lines]
    if None in words:
        raise Fault("wrong result in silence: a line that should stop it is taken")
    if command == "score":
        lengths = [len(words_of) for words_of in words if words_of]
        found = [line.count('"word"') for line in output.read_text().splitlines()]
        if len(found) != len(lengths):
            raise Fault(f"wrong result in silence: {len(found)} scores of {len(lengths)} sentences")
    else:
        arrays = dict(np.load(output))
        arrays.pop("sentence_to_index")
        if [arrays[str(n)].shape[1] for n in range(len(arrays))] != [len(words_of or []) for words_of in words]:
            raise Fault("wrong result in silence: other lengths than the lines have")


def compressed(world: World, chance: Random, folder: Path, case: int) -> None:
    """Cut, change or join a compressed file. The whole text must be read, or the file is refused."""
    kind = chance.choice(sorted(COMPRESS))
    whole = COMPRESS[kind](world.text.read_bytes())
    action = chance.choice(["damage"] * 6 + ["join", "join mixed", "twice", "as text", "as another", "padding"])
    data, times = whole, 1
    if action == "damage":
        data, action = bytes_damaged(whole, chance)
    elif action in ("join", "join mixed"):
        other = kind if action == "join" else chance.choice(sorted(COMPRESS))
        data, times = whole + COMPRESS[other](world.text.read_bytes()), 2
    elif action == "twice":
        data = COMPRESS[chance.choice(sorted(COMPRESS))](whole)
    elif action == "padding":
        data = whole + bytes(chance.choice([1, 4, 512]))
    suffix = {"as text": "txt", "as another": chance.choice(sorted(COMPRESS))}.get(action, kind)
    path = folder / f"text.{suffix}"
    path.write_bytes(data)
    note(f"{kind} as {path.name}: {action}")
    elmo("prep", f"input={path}", f"output={folder / 'data'}", "heldout=0", "shuffle=none", "workers=1")
    wanted = [" ".join(line.split()) for line in world.text.read_text("utf-8").split("\n") if line.split()]
    if sentences_of(folder / "data") != wanted * times:
        raise Fault("wrong result in silence: another text than was compressed")
