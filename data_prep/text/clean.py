"""Find faults in lines of text, fast where there are none, and repair control characters in running text."""

import re
from typing import NamedTuple

from data_prep.text.corpus import MAX_LINE_BYTES, Block

MARK = "\0"  # marks a line's end among its words, so a line with NUL is a fault
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # str.split takes all others as white space
_ASCII_CONTROLS = bytes(code for code in range(0x80) if _CONTROL.match(chr(code)))
_FORGED = frozenset(("<S>", "</S>"))

# A C1 control character (U+0080 to U+009F) in running text is a byte of Windows-1252 that was read as Latin-1. HTML
# and ftfy repair it in the same way. Five of these bytes have no character in Windows-1252; they and other control
# characters become white space. NUL stays a fault: it occurs in binary files and in UTF-16, not in text.
_REPAIRS = {chr(code): " " for code in _ASCII_CONTROLS if code}
_REPAIRS |= {chr(code): bytes([code]).decode("cp1252", "ignore") or " " for code in range(0x80, 0xA0)}
_REPAIRABLE = re.compile(f"[{''.join(_REPAIRS)}]")


class Clean(NamedTuple):
    """Checked text of a block. text: bad lines emptied. faults: {line in the block: fault}.

    repaired: how many control characters were repaired.
    """

    text: str
    faults: dict[int, str]
    repaired: int = 0


def clean(block: Block, is_raw: bool) -> Clean:
    """Return the block's text and its faults. is_raw: running text, in which control characters are repaired."""
    if block.too_long:
        return Clean("\n", {0: f"is longer than {MAX_LINE_BYTES >> 20} MiB; break it into sentences"})
    text = _decode(block.data, _REPAIRABLE if is_raw else _CONTROL)
    if text is not None:
        return Clean(text, {})
    lines = [_read(line, is_raw) for line in block.data.split(b"\n")]
    faults = {number: fault for number, (_, fault, _) in enumerate(lines) if fault}
    return Clean("\n".join(text for text, _, _ in lines), faults, sum(repaired for _, _, repaired in lines))


def _decode(data: bytes, suspicious: re.Pattern[str]) -> str | None:
    """Return the text, or None if any line may have a fault or need a repair."""
    if len(data.translate(None, _ASCII_CONTROLS)) != len(data) or b"S>" in data:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    return text if data.isascii() or not suspicious.search(text) else None


def _read(line: bytes, is_raw: bool) -> tuple[str, str, int]:
    """Return (text, "", characters repaired) of a line, or ("", the fault with its remedy, 0)."""
    try:
        text, repaired = line.decode(), 0
    except UnicodeDecodeError as error:
        bad = f"byte 0x{line[error.start]:02x} at {error.start + 1}"
        return "", f"is not UTF-8 ({bad}); convert the file to UTF-8", 0
    if is_raw:
        text, repaired = _REPAIRABLE.subn(lambda found: _REPAIRS[found[0]], text)
    if found := _CONTROL.search(text):
        remedy = "remove it" if found[0] != MARK else "remove it, or convert the file to UTF-8 if it is UTF-16"
        return "", f"holds the control character U+{ord(found[0]):04X} at {found.start() + 1}; {remedy}", 0
    if b"S>" in line and (forged := sorted(_FORGED.intersection(text.split()))):
        return "", f"holds the word {forged[0]}, which marks sentence bounds; spell it otherwise", 0
    return text, "", repaired
