"""`elmo probe wsd`: the nearest average of a sense, by cosine, on each frozen layer (Peters et al. 2018, section 5.3).

A sense's vector is the average over its occurrences in SemCor; an instance gets the nearest one among the senses of its
lemma and part of speech that SemCor has, or WordNet's first sense if SemCor has none. SemCor is read once, and only
senses that some test set can ask for are summed.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from data_prep.progress import Progress
from pipeline.config.probes import WsdProbeConfig
from pipeline.config.schema import require
from pipeline.tasks.metrics.senses import SenseScores
from pipeline.tasks.probes.layers import LayerSource, open_layers, write_sentences
from pipeline.tasks.probes.result import ProbeResult, describe_speed, percent
from pipeline.tasks.probes.sense_examples import (
    Lemma,
    Occurrence,
    SenseSentence,
    read_first_senses,
    read_sense_text,
)

FIRST_SENSE = "first sense"
ALL, WITHOUT_DEV = "all", "without semeval2007"
_DEV = "semeval2007"  # the paper's "all" leaves it out: the framework's development set
_COSINE_DECIMALS = 6  # what float32 resolves: closer ones are equal
_BLOCK_WORDS = 1 << 13  # words whose vectors are held at once


@dataclass(frozen=True)
class Instance:
    """A word to disambiguate. number: of its sentence, among all that the source has."""

    set: str
    number: int
    occurrence: Occurrence


class SenseInventory:
    """The senses of some lemmas that a text has, as rows of a matrix."""

    def __init__(self, text: Iterable[SenseSentence], lemmas: set[Lemma]) -> None:
        self.rows: dict[str, int] = {}
        self.of_lemma: dict[Lemma, list[str]] = {}
        for sentence in text:
            for occurrence in sentence.occurrences:
                for key in occurrence.keys if occurrence.lemma in lemmas else ():
                    if key not in self.rows:
                        self.rows[key] = len(self.rows)
                        self.of_lemma.setdefault(occurrence.lemma, []).append(key)

    @cached_property
    def keys(self) -> list[str]:
        return list(self.rows)

    def rows_of(self, occurrence: Occurrence) -> list[int]:
        """Return the rows that an occurrence in the text adds to."""
        return [self.rows[key] for key in occurrence.keys if key in self.rows]


def probe_wsd(config: WsdProbeConfig) -> ProbeResult | str:
    """Score each layer on the test sets. Raises ConfigError, DataError."""
    for name in ("semcor", "sense_index", "test"):
        how = "elmo probe wsd semcor=FILE sense_index=FILE test=FILE"
        require(bool(getattr(config, name)), f"{name}= is missing; {how}")
    require(
        len(config.gold) in (0, len(config.test)),
        f"gold= names {len(config.gold)} files for {len(config.test)} of test=; give one each, in the same order",
    )
    first_senses = read_first_senses(config.sense_index)
    semcor = [sentence for path in config.semcor for sentence in read_sense_text(path)]
    tests = _read_tests(config)
    sentences = [*semcor, *(sentence for _, sentence in tests)]
    texts = [sentence.words for sentence in sentences]
    if config.sentences:
        return write_sentences(config, texts)
    instances = [
        Instance(_set_of(name, occurrence), len(semcor) + number, occurrence)
        for number, (name, sentence) in enumerate(tests)
        for occurrence in sentence.occurrences
    ]
    inventory = SenseInventory(semcor, {instance.occurrence.lemma for instance in instances})
    with open_layers(config, texts) as source:
        answers = _nearest(source, instances, _sense_averages(source, semcor, inventory), inventory)
    fallback = [first_senses.get(instance.occurrence.lemma) for instance in instances]
    given = {name: [a or f for a, f in zip(row, fallback, strict=True)] for name, row in answers.items()}
    result = _result(config, instances, given | {FIRST_SENSE: fallback}, inventory)
    result.write(config)
    return result


def _read_tests(config: WsdProbeConfig) -> list[tuple[str, SenseSentence]]:
    golds = config.gold or [""] * len(config.test)
    names = [Path(path).name.partition(".")[0] for path in config.test]
    require(len(set(names)) == len(names), f"test= has two files with the same name before the first dot: {names}")
    return [
        (name, sentence)
        for name, path, gold in zip(names, config.test, golds, strict=True)
        for sentence in read_sense_text(path, gold)
    ]


def _set_of(file: str, occurrence: Occurrence) -> str:
    """Return the test set of an instance: its file's name, or what the ids of the framework's ALL file begin with."""
    parts = occurrence.id.split(".")
    return parts[0] if len(parts) == 4 else file


def _sense_averages(source: LayerSource, semcor: Sequence[SenseSentence], inventory: SenseInventory) -> np.ndarray:
    """Return (layers, senses, width): the sum of each sense's occurrences, which points where their average does."""
    rows = [[(o, inventory.rows_of(o)) for o in sentence.occurrences] for sentence in semcor]
    wanted = [number for number, of_sentence in enumerate(rows) if any(of for _, of in of_sentence)]
    sums = np.zeros((len(source.names), len(inventory.rows), source.width))
    progress, done = Progress("senses", len(wanted), unit="sentence", describe=describe_speed), 0
    for block, vectors, first in _vectors(source, wanted):
        cells = [
            (row, occurrence, start)
            for number, start in zip(block, first, strict=True)
            for occurrence, of in rows[number]
            for row in of
        ]
        add = _averages(cells, len(sums[0]), vectors.shape[1])
        for layer, values in enumerate(vectors):
            sums[layer] += add @ values
        done += len(block)
        progress.update(done, done)
    progress.close()
    return sums


def _nearest(
    source: LayerSource, instances: Sequence[Instance], senses: np.ndarray, inventory: SenseInventory
) -> dict[str, list[str | None]]:
    """Return the nearest sense of each instance by each layer, None where SemCor has none of its lemma."""
    of_sentence: dict[int, list[int]] = {}
    for place, instance in enumerate(instances):
        of_sentence.setdefault(instance.number, []).append(place)
    found = np.zeros((len(source.names), len(instances), source.width))
    for block, vectors, first in _vectors(source, list(of_sentence)):
        cells = [
            (place, instances[place].occurrence, start)
            for number, start in zip(block, first, strict=True)
            for place in of_sentence[number]
        ]
        average = _averages(cells, len(instances), vectors.shape[1])
        for layer, values in enumerate(vectors):
            found[layer] += average @ values
    rows = [[inventory.rows[key] for key in inventory.of_lemma.get(i.occurrence.lemma, ())] for i in instances]
    return {name: _nearest_keys(found[n], senses[n], rows, inventory) for n, name in enumerate(source.names)}


def _nearest_keys(
    vectors: np.ndarray, senses: np.ndarray, rows: list[list[int]], inventory: SenseInventory
) -> list[str | None]:
    """Return for each vector the key of the candidate row whose cosine is highest, None without candidates.

    Of equal ones the sense that SemCor has first is taken. A token layer has many: one word form, one vector.
    """
    vectors, units = _units(vectors), _units(senses)
    best = [
        of[int(np.argmax(np.round(units[of] @ vector, _COSINE_DECIMALS)))] if of else None
        for vector, of in zip(vectors, rows, strict=True)
    ]
    return [None if row is None else inventory.keys[row] for row in best]


def _units(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths, lengths, 1))


def _vectors(source: LayerSource, numbers: Sequence[int]) -> Iterator[tuple[list[int], np.ndarray, list[int]]]:
    """Yield blocks of sentences: their numbers, layers of all words (layers, words, width), first word of each."""
    block: list[int] = []
    parts: list[np.ndarray] = []
    first: list[int] = [0]
    for number, layers in zip(numbers, source.read(numbers), strict=True):
        block.append(number)
        parts.append(layers)
        first.append(first[-1] + layers.shape[1])
        if first[-1] >= _BLOCK_WORDS:
            yield block, np.concatenate(parts, 1), first[:-1]
            block, parts, first = [], [], [0]
    if block:
        yield block, np.concatenate(parts, 1), first[:-1]


def _averages(cells: list[tuple[int, Occurrence, int]], num_rows: int, num_words: int) -> csr_matrix:
    """Return a matrix that averages the words of each occurrence and adds them to its row.

    cells: (row, occurrence, first word of its sentence).
    """
    places = [(row, start + word, 1 / (o.end - o.first)) for row, o, start in cells for word in range(o.first, o.end)]
    rows, words, weights = zip(*places, strict=True) if places else ((), (), ())
    return csr_matrix((np.array(weights, np.float64), (rows, words)), (num_rows, num_words))


def _result(
    config: WsdProbeConfig,
    instances: Sequence[Instance],
    given: dict[str, list[str | None]],
    inventory: SenseInventory,
) -> ProbeResult:
    sets = list(dict.fromkeys(instance.set for instance in instances))
    members = {name: [i.set == name for i in instances] for name in sets}
    if len(sets) > 1:
        members[ALL] = [True] * len(instances)
        if _DEV in sets:
            members[WITHOUT_DEV] = [i.set != _DEV for i in instances]
    scores = {name: {part: _score(instances, keys, of) for part, of in members.items()} for name, keys in given.items()}
    rows = [["F1", *members], *([name, *(percent(s["f1"]) for s in row.values())] for name, row in scores.items())]
    rows += [["instances", *(f"{sum(of):,}" for of in members.values())]]
    unseen = sum(instance.occurrence.lemma not in inventory.of_lemma for instance in instances)
    unanswered = sum(key is None for key in given[FIRST_SENSE])
    notes = [f"{unseen:,} of {len(instances):,} instances have no sense in semcor= and take WordNet's first sense"]
    notes += [f"{unanswered:,} have no first sense in sense_index="] if unanswered else []
    record = {
        "probe": "wsd",
        "source": config.checkpoint or list(config.layers),
        "instances": {name: sum(of) for name, of in members.items()},
        "unseen": unseen,
        "scores": scores,
    }
    return ProbeResult(rows, notes, record)


def _score(instances: Sequence[Instance], keys: Sequence[str | None], members: Sequence[bool]) -> dict[str, float]:
    scores = SenseScores()
    for instance, key, is_member in zip(instances, keys, members, strict=True):
        if is_member:
            scores.update(instance.occurrence.keys, [] if key is None else [key])
    return scores.result()
