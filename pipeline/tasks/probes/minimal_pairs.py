"""`elmo probe pairs`: the share of minimal pairs whose good sentence is more probable (Warstadt et al. 2020).

Data: BLiMP's JSON lines. The sentences are raw text, and are split into words as `elmo prep tokenize=true` does.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.typed_json import parse_json
from data_prep.progress import Progress
from data_prep.text.corpus import find_sources
from data_prep.text.tokenizer import Tokenizer
from pipeline.apply.load import load_trained
from pipeline.config.probes import PairsProbeConfig
from pipeline.config.schema import require
from pipeline.model.backend.device import choose_device
from pipeline.tasks.examples.lines import bad_line, empty, read_lines
from pipeline.tasks.metrics.counts import PERCENT
from pipeline.tasks.probes.prefix_scorer import PrefixScorer, Words
from pipeline.tasks.probes.result import ProbeResult, describe_speed, percent

_REMEDY = 'write {"sentence_good": text, "sentence_bad": text, "UID": paradigm, "field": field}'
_WAYS = ("forward", "backward", "both")


class _Line(TypedDict):
    sentence_good: str
    sentence_bad: str
    UID: str
    field: NotRequired[str]


@dataclass(frozen=True)
class MinimalPair:
    good: Words
    bad: Words
    paradigm: str
    field: str


def probe_pairs(config: PairsProbeConfig) -> ProbeResult:
    """Score both sentences of each pair by full softmax. Raises ConfigError, DataError."""
    require(bool(config.checkpoint), "checkpoint= is missing: give a checkpoint, a run's folder or an exported model")
    require(bool(config.data), "data= is missing: give files or folders of BLiMP's JSON lines")
    pairs = read_pairs(config)
    device = choose_device(config.accelerator)
    trained = load_trained(config.checkpoint, device)
    model = trained.language_model(
        f"checkpoint={config.checkpoint} has no softmax, without which nothing can be scored; give the run it came "
        "from, or an export of it with format=elmo"
    )
    scorer, begun = PrefixScorer(model, trained.words), time.monotonic()
    sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    progress = Progress("probe pairs", len(sentences), unit="sentence", describe=describe_speed)
    with torch.autocast(device, torch.bfloat16) if config.precision == "bf16-mixed" else nullcontext():
        scores = scorer.score(sentences, lambda done: progress.update(done, done))
    progress.close()
    seconds = time.monotonic() - begun
    is_known = np.array([not (scorer.unknown(pair.good) or scorer.unknown(pair.bad)) for pair in pairs])
    result = _result(config, pairs, _right(scores), is_known, seconds)
    result.write(config)
    return result


def read_pairs(config: PairsProbeConfig) -> list[MinimalPair]:
    """Return the pairs of all files. Raises DataError."""
    lines: list[tuple[str, int, _Line]] = []
    for source in find_sources(config.data, [], config.output or "probe"):
        before = len(lines)
        for line, text in read_lines(source.path):
            if text.strip():
                where = f"{source.path}, line {line:,}"
                lines.append((source.path, line, parse_json(text.encode(), _Line, where, _REMEDY)))
        if len(lines) == before:
            raise empty(source.path)
    raw = [" ".join(text.split()) for *_, pair in lines for text in (pair["sentence_good"], pair["sentence_bad"])]
    words = iter(_tokenized(raw, config.language) if config.tokenize else (tuple(text.split()) for text in raw))
    pairs = []
    for path, line, pair in lines:
        good, bad = next(words), next(words)
        if not good or not bad:
            raise bad_line(path, line, "has an empty sentence; give both sentences of the pair")
        field = pair.get("field", "").replace("/", "_")  # BLiMP has syntax/semantics and syntax_semantics
        pairs.append(MinimalPair(good, bad, pair["UID"], field))
    return pairs


def _tokenized(raw: Sequence[str], language: str) -> Iterator[Words]:
    """Yield the words of each line, which is one sentence even where the tokeniser sees several."""
    lines, counts = Tokenizer(language).split("".join(f"{text}\n" for text in raw))
    pieces = iter(lines.split("\n"))
    for count in counts.tolist():
        yield tuple(word for _ in range(count) for word in next(pieces).split())


def _right(scores: np.ndarray) -> np.ndarray:
    """Return (3, pairs): whether the good sentence has the higher log-probability forward, backward and in sum."""
    summed = np.concatenate([scores, scores.sum(0, keepdims=True)])
    return np.asarray(summed[:, 0::2] > summed[:, 1::2])


def _shares(right: np.ndarray, is_known: np.ndarray, members: np.ndarray) -> dict[str, Any]:
    """Return the counts and shares of some pairs; `known` are those without a word that is unknown to the softmax."""
    known = members & is_known
    found: dict[str, Any] = {"pairs": int(members.sum()), "with_unknown_words": int((members & ~is_known).sum())}
    found |= {way: PERCENT * float(right[n, members].mean()) for n, way in enumerate(_WAYS)}
    is_any = bool(known.any())
    found["known"] = {way: PERCENT * float(right[n, known].mean()) if is_any else None for n, way in enumerate(_WAYS)}
    return found


def _result(
    config: PairsProbeConfig, pairs: Sequence[MinimalPair], right: np.ndarray, is_known: np.ndarray, seconds: float
) -> ProbeResult:
    of_field = _grouped([pair.field for pair in pairs], right, is_known)
    of_paradigm = _grouped([pair.paradigm for pair in pairs], right, is_known)
    total = _shares(right, is_known, np.ones(len(pairs), bool))
    rows = [["share right", *_WAYS, "pairs", "unknown", "both, known"]]
    rows += [_row(name, shares) for name, shares in [*of_field.items(), ("all", total)]]
    rows += [[""] * len(rows[0])]
    rows += [_row(name, shares) for name, shares in of_paradigm.items()]
    notes = [
        "unknown: pairs with a word outside the softmax's vocabulary; known: the other pairs",
        f"{2 * len(pairs):,} sentences in {seconds:.1f} s: {2 * len(pairs) / max(seconds, 1e-9):,.0f} a second",
    ]
    record = {"probe": "pairs", "source": config.checkpoint, "precision": config.precision, "seconds": seconds}
    record |= {"all": total, "fields": of_field, "paradigms": of_paradigm}
    return ProbeResult(rows, notes, record)


def _grouped(names: list[str], right: np.ndarray, is_known: np.ndarray) -> dict[str, dict[str, Any]]:
    array = np.array(names)
    return {name: _shares(right, is_known, array == name) for name in dict.fromkeys(names)}


def _row(name: str, shares: dict[str, Any]) -> list[str]:
    ways = [percent(shares[way]) for way in _WAYS]
    counts = [f"{shares[key]:,}" for key in ("pairs", "with_unknown_words")]
    return [name, *ways, *counts, percent(shares["known"]["both"])]
