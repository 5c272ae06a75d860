"""Read text whose words have WordNet senses: JSON lines, the XML of Raganato et al. 2017 with its keys, index.sense.

A multiword (take_place, "old age") becomes several words, as a biLM has learned to read them; `Occurrence` covers all.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from typing_extensions import TypedDict

from data_prep.dataset.files import DataError
from data_prep.dataset.locations import local_path
from data_prep.dataset.typed_json import parse_json
from pipeline.tasks.examples.lines import bad_line, empty, read_lines, read_text, shown
from pipeline.tasks.examples.types import Words

Lemma = tuple[str, str]
"""(lemma in lower case, part of speech: "1" noun, "2" verb, "3" adjective, "4" adverb)"""

_KEY = re.compile(r"([^\s%]+)%([1-5]):\d\d:\d\d:[^\s:]*:\d*")
_PARTS_OF_SPEECH = {"NOUN": "1", "VERB": "2", "ADJ": "3", "ADV": "4"}
_ADJECTIVE_SATELLITE = "5"
_REMEDY = 'write {"tokens": [word, ...], "senses": {"number of a token": [sense key, ...]}}'
_DATA, _GOLD = ".data.xml", ".gold.key.txt"


@dataclass(frozen=True)
class Occurrence:
    """Words first to last + 1 of a sentence, whose sense is asked for. keys: all right ones. id: of a test instance."""

    first: int
    end: int
    lemma: Lemma
    keys: tuple[str, ...]
    id: str = ""


@dataclass(frozen=True)
class SenseSentence:
    words: Words
    occurrences: tuple[Occurrence, ...]


class _Sentence(TypedDict):
    tokens: list[str]
    senses: dict[str, list[str]]


def lemma_of(key: str) -> Lemma:
    """Return lemma and part of speech of a sense key. WordNet counts satellites among the adjectives."""
    lemma, _, rest = key.partition("%")
    return lemma.lower(), "3" if rest[0] == _ADJECTIVE_SATELLITE else rest[0]


def read_sense_text(path: str, gold: str = "") -> list[SenseSentence]:
    """Return the sentences of a file: XML if its name holds .xml, otherwise JSON lines. Raises DataError.

    gold: the keys of an XML file [default: NAME.gold.key.txt beside NAME.data.xml].
    """
    sentences = _read_xml(path, gold or gold_of(path)) if ".xml" in Path(path).name else list(_read_json(path))
    if not any(sentence.occurrences for sentence in sentences):
        raise empty(path)
    return sentences


def gold_of(path: str) -> str:
    """Return the file of the keys that belongs to an XML file, compressed in the same way or not at all."""
    name = Path(path).name
    if _DATA not in name:
        raise DataError(f"{path}: name its sense keys by gold=, or call it NAME{_DATA} with NAME{_GOLD} beside it")
    same = Path(path).with_name(name.replace(_DATA, _GOLD))
    plain = Path(path).with_name(name[: name.index(_DATA)] + _GOLD)
    return str(plain if not local_path(same).exists() and local_path(plain).exists() else same)


def read_first_senses(path: str) -> dict[Lemma, str]:
    """Return the first sense of each lemma, by WordNet's index.sense: sense key, offset, sense number, count."""
    found: dict[Lemma, str] = {}
    for line, text in read_lines(path):
        fields = text.split()
        if not fields:
            continue
        if len(fields) != 4 or not _KEY.fullmatch(fields[0]) or not fields[2].isdecimal():
            what = f"is no line of WordNet's index.sense ({shown(text)}); it has sense key, offset, number and count"
            raise bad_line(path, line, what)
        if int(fields[2]) == 1:
            found.setdefault(lemma_of(fields[0]), fields[0])
    if not found:
        raise DataError(f"{path} holds no first sense; give WordNet's index.sense")
    return found


def _read_json(path: str) -> Iterator[SenseSentence]:
    for line, text in read_lines(path):
        if not text.strip():
            continue
        sentence: _Sentence = parse_json(text.encode(), _Sentence, f"{path}, line {line:,}", _REMEDY)
        pieces, senses = [_pieces(token) for token in sentence["tokens"]], sentence["senses"]
        if not pieces:
            raise bad_line(path, line, "has no tokens; remove it")
        firsts = [0]
        for piece in pieces:
            firsts.append(firsts[-1] + len(piece))
        occurrences = []
        for place, keys in senses.items():
            if not place.isdecimal() or int(place) >= len(pieces):
                what = f"has a sense for token {shown(place)}, but its {len(pieces)} tokens count from 0"
                raise bad_line(path, line, what)
            _check_keys(path, line, keys)
            at = int(place)
            occurrences.append(Occurrence(firsts[at], firsts[at + 1], lemma_of(keys[0]), tuple(keys)))
        yield SenseSentence(tuple(word for piece in pieces for word in piece), tuple(occurrences))


def _pieces(token: str) -> list[str]:
    """Return the words of a multiword, joined by _ or white space."""
    return [piece for piece in re.split(r"[\s_]+", token) if piece] or ["_"]


def _check_keys(path: str, line: int, keys: Sequence[str]) -> None:
    if not keys:
        raise bad_line(path, line, "has an empty list of senses; give a sense key, or leave the token out")
    for key in keys:
        if not _KEY.fullmatch(key):
            what = f"has {shown(key)}, which is no sense key of WordNet such as art%1:09:00::"
            raise bad_line(path, line, what)


def _read_gold(path: str) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Return (line, right keys) of each instance."""
    found: dict[str, tuple[int, tuple[str, ...]]] = {}
    for line, text in read_lines(path):
        name, *keys = text.split() or [""]
        if not name:
            continue
        if not keys:
            raise bad_line(path, line, f"has no sense key for {shown(name)}; write: instance id, sense key, ...")
        _check_keys(path, line, keys)
        if name in found:
            raise bad_line(path, line, f"holds {shown(name)}, as line {found[name][0]:,} does; keep one of them")
        found[name] = line, tuple(keys)
    return found


def _read_xml(path: str, gold: str) -> list[SenseSentence]:
    keys = _read_gold(gold)
    reader = _XmlReader(path, gold, {name: of_name for name, (_, of_name) in keys.items()})
    sentences = reader.read()
    for name, (line, _) in keys.items():
        if name not in reader.seen:
            raise bad_line(gold, line, f"holds {shown(name)}, which is no instance of {path}; give its keys")
    return sentences


class _XmlReader:
    """Build sentences of the elements of one file, with the file's line in each error."""

    def __init__(self, path: str, gold: str, keys: dict[str, tuple[str, ...]]) -> None:
        self._path, self._gold, self._keys = path, gold, keys
        self.seen: set[str] = set()
        self._sentences: list[SenseSentence] = []
        self._words: list[str] | None = None  # None outside a sentence
        self._occurrences: list[Occurrence] = []
        self._text: list[str] | None = None  # None outside a word
        self._attributes: dict[str, str] = {}
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._begin
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = lambda text: None if self._text is None else self._text.append(text)
        self._parser.EntityDeclHandler = self._refuse_entity

    def read(self) -> list[SenseSentence]:
        try:
            self._parser.Parse(read_text(self._path), True)
        except expat.ExpatError as error:
            what = f"is not XML ({expat.ErrorString(error.code)}); give NAME{_DATA} of Raganato et al. 2017"
            raise bad_line(self._path, error.lineno, what) from None
        return self._sentences

    def _fault(self, what: str) -> DataError:
        return bad_line(self._path, self._parser.CurrentLineNumber, what)

    def _refuse_entity(self, *_: object) -> None:
        raise self._fault("declares an entity, which these files never do; remove it")

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        if name == "sentence":
            self._words, self._occurrences = [], []
        elif name in ("wf", "instance"):
            if self._words is None or self._text is not None:
                raise self._fault(f"has <{name}> outside a sentence or inside a word; give one word an element")
            self._text, self._attributes = [], attributes

    def _end(self, name: str) -> None:
        if name == "sentence" and self._words:
            self._sentences.append(SenseSentence(tuple(self._words), tuple(self._occurrences)))
            self._words = None
        elif name in ("wf", "instance"):
            assert self._words is not None and self._text is not None
            first, words = len(self._words), _pieces("".join(self._text))
            self._words += words
            self._text = None
            if name == "instance":
                self._occurrences.append(self._instance(first, first + len(words)))

    def _instance(self, first: int, end: int) -> Occurrence:
        name, lemma, pos = (self._attributes.get(key, "") for key in ("id", "lemma", "pos"))
        if not (name and lemma and pos in _PARTS_OF_SPEECH):
            parts = ", ".join(_PARTS_OF_SPEECH)
            raise self._fault(f"has an instance without id, lemma or one of the parts of speech {parts}; add it")
        if name in self.seen:
            raise self._fault(f"has a second instance {shown(name)}; ids must be different")
        if name not in self._keys:
            raise self._fault(f"has the instance {shown(name)}, for which {self._gold} holds no sense; add its line")
        self.seen.add(name)
        spelled = "_".join(lemma.lower().split())
        return Occurrence(first, end, (spelled, _PARTS_OF_SPEECH[pos]), self._keys[name], name)
