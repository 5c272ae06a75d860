"""What a line of text must not hold, found fast where nothing is wrong."""

import re

from data_prep.corpus import MAX_LINE_BYTES, Block

MARK = "\0"  # stands for a line's end among its words: control characters never pass the check
_ASCII_CONTROLS = bytes([*range(0x00, 0x09), *range(0x0E, 0x1C), 0x7F])  # the others are white space to str.split
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_FORGED = frozenset(("<S>", "</S>"))


def clean(block: Block) -> tuple[str, dict[int, str]]:
    """The block's text with its bad lines emptied, and what is wrong with each: {line in the block: fault}."""
    if block.too_long:
        return "\n", {0: f"is longer than {MAX_LINE_BYTES >> 20} MiB; break it into sentences"}
    text = _decode(block.data)
    if text is not None:
        return text, {}
    lines = block.data.split(b"\n")
    faults = {number: fault for number, line in enumerate(lines) if (fault := fault_of(line))}
    for number in faults:
        lines[number] = b""
    return b"\n".join(lines).decode(), faults


def _decode(data: bytes) -> str | None:
    """The text, or None if any line may be at fault."""
    if len(data.translate(None, _ASCII_CONTROLS)) != len(data) or b"S>" in data:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if data.isascii() or not _CONTROL.search(text) else None


def fault_of(line: bytes) -> str | None:
    """What is wrong with a line, with the remedy, or None."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return f"is not UTF-8 (byte 0x{line[error.start]:02x} at {error.start + 1}); convert the file to UTF-8"
    if found := _CONTROL.search(text):
        return f"holds the control character U+{ord(found[0]):04X} at {found.start() + 1}; remove it"
    if b"S>" in line and (forged := sorted(_FORGED.intersection(text.split()))):
        return f"holds the word {forged[0]}, which marks sentence bounds; spell it otherwise"
    return None
