"""Tag schemes of entities: recognise IOB1, IOB2, BIOES and BILOU, convert between them, check a sequence.

A tag is O, or a prefix and a type (B-PER). IOB2: B begins every entity. IOB1: B begins an entity only where it follows
one of the same type. BIOES: IOB2 with E at the end of an entity and S for one of a single word; BILOU names these L, U.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

Scheme = Literal["IOB1", "IOB2", "BIOES", "BILOU"]
_AS_BIOES = {"L": "E", "U": "S"}
_AS_BILOU = {"E": "L", "S": "U"}


class TagFault(ValueError):
    """A tag that does not fit. index: its place in the sequence; -1: no single place."""

    def __init__(self, index: int, what: str) -> None:
        super().__init__(what)
        self.index = index


def split_tag(tag: str) -> tuple[str, str]:
    """Return (prefix, type) of a tag, ("O", "") for O."""
    prefix, _, kind = tag.partition("-")
    return prefix, kind


def check_form(tags: Sequence[str]) -> None:
    """Raise TagFault for a tag that is neither O nor a known prefix with a type."""
    for index, tag in enumerate(tags):
        prefix, kind = split_tag(tag)
        if tag != "O" and (prefix not in ("B", "I", "E", "S", "L", "U") or not kind):
            raise TagFault(index, f"{tag!r} is no entity tag; tags are O, B-TYPE, I-TYPE, E-TYPE or S-TYPE")


def find_scheme(sequences: Iterable[Sequence[str]]) -> Scheme:
    """Return the scheme that all tag sequences of a data set follow, IOB2 where there is no entity.

    Raises TagFault where E or S stand beside L or U. Whether a sequence is valid is left to `to_bioes`.
    """
    prefixes: set[str] = set()
    is_iob1 = False
    for tags in sequences:
        before = ("O", "")
        for tag in tags:
            prefix, kind = split_tag(tag)
            prefixes.add(prefix)
            is_iob1 = is_iob1 or (prefix == "I" and before[1] != kind)
            before = prefix, kind
    if prefixes & {"E", "S"} and prefixes & {"L", "U"}:
        raise TagFault(-1, "tags begin with E or S (BIOES) and also with L or U (BILOU); use one scheme")
    if prefixes & {"E", "S"}:
        return "BIOES"
    if prefixes & {"L", "U"}:
        return "BILOU"
    return "IOB1" if is_iob1 else "IOB2"


def to_bioes(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Return the tags in BIOES. Raises TagFault for a sequence that is not of the scheme."""
    if scheme in ("BIOES", "BILOU"):
        renamed = tuple(_renamed(tag, _AS_BIOES) for tag in tags)
        _check_bioes(tags, renamed)
        return renamed
    begins = [_begins(tags, index, scheme) for index in range(len(tags))]
    converted = []
    for index, tag in enumerate(tags):
        kind = split_tag(tag)[1]
        is_last = index + 1 == len(tags) or tags[index + 1] == "O" or begins[index + 1]
        prefix = ("S" if is_last else "B") if begins[index] else ("E" if is_last else "I")
        converted.append(tag if tag == "O" else f"{prefix}-{kind}")
    return tuple(converted)


def from_bioes(tags: Sequence[str], scheme: Scheme) -> tuple[str, ...]:
    """Return BIOES tags in another scheme."""
    if scheme == "BIOES":
        return tuple(tags)
    if scheme == "BILOU":
        return tuple(_renamed(tag, _AS_BILOU) for tag in tags)
    converted = []
    for index, tag in enumerate(tags):
        prefix, kind = split_tag(tag)
        if prefix in ("B", "S"):
            follows_same = index > 0 and split_tag(tags[index - 1])[1] == kind
            prefix = "B" if scheme == "IOB2" or follows_same else "I"
        converted.append(tag if tag == "O" else f"{'I' if prefix == 'E' else prefix}-{kind}")
    return tuple(converted)


def check_bio(tags: Sequence[str]) -> None:
    """Raise TagFault where the tags are not valid BIO (IOB2), as semantic roles are written."""
    for index, tag in enumerate(tags):
        prefix, kind = split_tag(tag)
        if tag != "O" and (prefix not in ("B", "I") or not kind):
            raise TagFault(index, f"{tag!r} is no tag of a role; tags are O, B-ROLE and I-ROLE")
        if prefix == "I" and (index == 0 or split_tag(tags[index - 1])[1] != kind):
            raise TagFault(index, f"{tag} does not follow B-{kind} or I-{kind}; begin a role with B-{kind}")


def _renamed(tag: str, prefixes: dict[str, str]) -> str:
    prefix, kind = split_tag(tag)
    return f"{prefixes[prefix]}-{kind}" if prefix in prefixes else tag


def _begins(tags: Sequence[str], index: int, scheme: Scheme) -> bool:
    """Return whether an entity begins there, in IOB1 or IOB2. Raises TagFault."""
    prefix, kind = split_tag(tags[index])
    same_before = index > 0 and split_tag(tags[index - 1])[1] == kind != ""
    if prefix == "I" and not same_before and scheme == "IOB2":
        raise TagFault(index, f"{tags[index]} does not follow an entity of type {kind}; begin it with B-{kind}")
    if prefix == "B" and not same_before and scheme == "IOB1":
        raise TagFault(
            index,
            f"{tags[index]} follows no entity of type {kind}, but elsewhere entities begin with I: this is neither "
            "IOB1 nor IOB2; begin every entity with B",
        )
    return prefix == "B" or (prefix == "I" and not same_before)


def _check_bioes(tags: Sequence[str], renamed: Sequence[str]) -> None:
    before = ("O", "")
    for index, tag in enumerate(renamed):
        prefix, kind = split_tag(tag)
        is_open = before[0] in ("B", "I")
        if is_open != (prefix in ("I", "E")) or (is_open and before[1] != kind):
            follows = tags[index - 1] if index else "the sentence's beginning"
            raise TagFault(index, f"{tags[index]} must not follow {follows}; an entity is B I ... E, or S alone")
        before = prefix, kind
    if before[0] in ("B", "I"):
        raise TagFault(len(tags) - 1, f"{tags[-1]} ends the sentence inside an entity; end it with E, or use S")
