"""The tables of probes, minimal pairs and fine-tunings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.tasks.probes.word_senses import ALL, WITHOUT_DEV
from pipeline.tasks.report.findings import Findings
from pipeline.tasks.report.tables import Cell, Table

Scores = dict[str, dict[str, float]]  # {source: {layer or field: score}}


def by_layer(name: str, scores: Scores) -> Table | None:
    """Return a table with a row a layer; None without scores."""
    layers = list(dict.fromkeys(layer for of_source in scores.values() for layer in of_source))
    rows: list[list[str]] = []
    plain: list[list[Cell]] = [["layer", *scores]]
    for layer in layers:
        values = [of_source.get(layer) for of_source in scores.values()]
        rows.append([layer, *("–" if value is None else f"{value:.2f}" for value in values)])
        plain.append([layer, *("" if value is None else value for value in values)])
    return Table(name, ["layer", *scores], rows, plain) if layers else None


def pos_scores(findings: Findings) -> Scores:
    """Return the accuracy of each source and layer: on test where it was scored, else on dev, as the name says."""
    found: Scores = {}
    for name, probe in zip(_names(findings.pos), findings.pos.values(), strict=True):
        on_test = {_layer(at["layer"]): at["test"] for at in probe["layers"] if at["test"] is not None}
        on_dev = {_layer(at["layer"]): at["dev"] for at in probe["layers"]}
        found[name if on_test else f"{name} (dev)"] = on_test or on_dev
    return found


def wsd_scores(findings: Findings) -> Scores:
    """Return F1 of each source and layer: on all sets but SemEval-2007, as the paper has it, else on a set it names."""
    found: Scores = {}
    for name, probe in zip(_names(findings.wsd), findings.wsd.values(), strict=True):
        sets = list(dict.fromkeys(key for of_layer in probe["scores"].values() for key in of_layer))
        key = next((key for key in (WITHOUT_DEV, ALL, *sets) if key in sets), "")
        scores = {_layer(layer): of_layer[key]["f1"] for layer, of_layer in probe["scores"].items() if key in of_layer}
        found[name if key == WITHOUT_DEV else f"{name} ({key})"] = scores
    return found


def pair_scores(findings: Findings) -> Scores:
    """Return the share of minimal pairs that are right, by both directions together, of each source and field."""
    found: Scores = {}
    for name, probe in zip(_names(findings.pairs), findings.pairs.values(), strict=True):
        found[name] = {
            field.replace("_", " and ") or "no field": shares["both"] for field, shares in probe["fields"].items()
        }
        found[name]["all"] = probe["all"]["both"]
    return found


def pair_table(findings: Findings) -> Table | None:
    """Return a row a field and source: the shares of pairs that are right, and how many have unknown words."""
    rows: list[list[str]] = []
    header = ["% of pairs", "forward", "backward", "both", "pairs", "unknown"]
    plain: list[list[Cell]] = [["source", "field", *header[1:]]]
    for name, probe in zip(_names(findings.pairs), findings.pairs.values(), strict=True):
        for field, shares in [*probe["fields"].items(), ("all", probe["all"])]:
            title = field.replace("_", " and ") or "no field"
            ways = [shares["forward"], shares["backward"], shares["both"]]
            counts = [shares["pairs"], shares["with_unknown_words"]]
            source = f" ({name})" if len(findings.pairs) > 1 else ""
            rows.append([title + source, *(f"{way:.1f}" for way in ways), *(f"{count:,}" for count in counts)])
            plain.append([name, title, *ways, *counts])
    return Table("minimal-pairs", header, rows, plain) if rows else None


def finetunings(findings: Findings) -> Table | None:
    """Return held-out perplexity and bits a character of each fine-tuning, before and after; None without one.

    A star marks perplexities over different vocabularies, which do not compare.
    """
    rows: list[list[str]] = []
    columns = ("perplexity before", "perplexity after", "bits before", "bits after", "perplexities compare")
    plain: list[list[Cell]] = [["run", "text", *columns]]
    for name, record in findings.finetunings.items():
        before: Mapping[str, Any] = record.get("before") or {}
        after: Mapping[str, Any] = record.get("after") or {}
        compares = record.get("is_comparable", True)
        for text in ("domain", "general"):
            if text in after:
                pairs = [(before.get(text, {}).get(key), after[text][key]) for key in ("both", "bits_a_character")]
                cells = [" → ".join(_number(v, digits) for v in p) for p, digits in zip(pairs, (1, 3), strict=True)]
                rows.append([f"{name}: {text}", cells[0] + ("" if compares else " *"), cells[1]])
                values = ("" if value is None else value for pair in pairs for value in pair)
                plain.append([name, text, *values, str(compares)])
    return Table("fine-tuning", ["held-out text", "perplexity", "bits a character"], rows, plain) if rows else None


def _names(probes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the name of each probe's source, with the probe's file where two have the same."""
    names = [_source_name(probe["source"]) or file for file, probe in probes.items()]
    return [f"{n} ({file})" if names.count(n) > 1 else n for n, file in zip(names, probes, strict=True)]


def _source_name(source: str | Sequence[str]) -> str:
    """Return what layers came from: the name of the model's folder, or of the first file."""
    first = Path(source if isinstance(source, str) else next(iter(source), ""))
    return first.parent.name if first.name == "model" else first.name


def _layer(name: str) -> str:
    """Return the name without what layer 0 holds, so that layers of different encoders share a row."""
    return name.partition(" (")[0]


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"
