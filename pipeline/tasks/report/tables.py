"""The tables of studies: tables 1 to 3 of Peters et al. 2018, and the data of its figures 1 and 2."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.tasks.report.points import Point, Varied
from pipeline.tasks.study import DEFAULT

PLACES = ("input", "output")
Cell = str | float
Column = tuple[str, Callable[[Varied], bool]]
_NAMES = {"pos": "POS", "ner": "NER", "srl": "SRL", "coref": "Coref", "squad": "SQuAD", "snli": "SNLI", "sst5": "SST-5"}


@dataclass(frozen=True)
class Table:
    """name: of its CSV file, whose rows are `plain`, header first. rows: cells as text; the first names the row."""

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    plain: Sequence[Sequence[Cell]]

    def csv(self) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([_unlike_a_formula(cell) for cell in row] for row in self.plain)
        return text.getvalue()


def _unlike_a_formula(cell: Cell) -> Cell:
    """Put an apostrophe before text that a spreadsheet would compute."""
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell[1:] else cell


def task_name(point: Point, beside: Sequence[Point], *details: str) -> str:
    """Return the name of a point's task, with its study where several have it, what else was varied, and details."""
    found = [point.study] if len({other.study for other in beside if other.task == point.task}) > 1 else []
    found += [detail for detail in (point.varied.others, *details) if detail]
    name = named(point.task)
    return f"{name} ({', '.join(found)})" if found else name


def named(task: str) -> str:
    """Return a task's name as the paper writes it."""
    return _NAMES.get(task, task)


def shown(point: Point | None) -> str:
    """Return the mean over seeds, and the standard deviation where there are several."""
    if point is None:
        return "–"
    return f"{point.mean:.1f} ± {point.deviation:.1f}" if len(point.runs) > 1 else f"{point.mean:.1f}"


def _is(**wanted: Any) -> Callable[[Varied], bool]:
    """Return whether options are the defaults but for these; `others` and, where not given, `encoder` may be any."""

    def matches(varied: Varied) -> bool:
        return varied == replace(Varied(), others=varied.others, **{"encoder": varied.encoder, **wanted})

    return matches


def without_repeats(points: Sequence[Point]) -> list[Point]:
    """Leave out tasks of a study of sample efficiency that another study has too, at its own settings."""
    shares: dict[tuple[str, str], set[float]] = {}
    for point in points:
        shares.setdefault((point.study, point.task), set()).add(point.varied.share)
    whole = {p.task for p in points if len(shares[p.study, p.task]) == 1 and _is(encoder=p.varied.encoder)(p.varied)}
    return [p for p in points if len(shares[p.study, p.task]) == 1 or p.task not in whole]


BASELINE: Column = ("baseline", lambda varied: varied.placement == "none" and varied.share == 1)


def table_1(points: Sequence[Point]) -> Table | None:
    """Return the baseline against ELMo, or another encoder, at the task's own place."""
    encoders = list(dict.fromkeys(p.varied.encoder for p in points if p.varied.placement != "none"))
    columns = [BASELINE, *((f"with {encoder or 'ELMo'}", _is(encoder=encoder)) for encoder in encoders)]
    return _compared("table-1", columns, _grouped(points, lambda varied: varied.others), is_gain_shown=True)


def table_2(points: Sequence[Point]) -> Table | None:
    """Return the last layer alone against the mix of all layers, by the strength of its regularisation."""
    strengths = sorted({p.varied.l2 for p in points if p.varied.l2 != DEFAULT}, key=lambda l2: (len(l2), l2))
    mixes = [(f"all layers, λ = {l2}", _is(l2=l2)) for l2 in strengths]
    columns = [BASELINE, ("last layer", _is(layers="top")), *mixes]
    return _compared("table-2", columns, _grouped(points, _others_and_encoder))


def table_3(points: Sequence[Point]) -> Table | None:
    """Return ELMo at the input, at both places, and at the output."""
    columns = [(place, _is(placement=place)) for place in ("input", "both", "output")]
    return _compared("table-3", columns, _grouped(points, _others_and_encoder))


def _others_and_encoder(varied: Varied) -> str:
    return ", ".join(filter(None, (varied.others, varied.encoder)))


def _grouped(points: Sequence[Point], by: Callable[[Varied], str]) -> list[list[Point]]:
    """Return the points of each study and task, apart where `by` says so."""
    groups: dict[tuple[str, str, str], list[Point]] = {}
    for point in points:
        groups.setdefault((point.study, point.task, by(point.varied)), []).append(point)
    return list(groups.values())


def _compared(
    name: str, columns: Sequence[Column], groups: Sequence[Sequence[Point]], is_gain_shown: bool = False
) -> Table | None:
    """Return a row for each group that has two of the columns; None without a row.

    Beside gains, a group with one column has a row too if it has nothing else: a study that is not finished.
    """
    all_found = [[next((p for p in group if matches(p.varied)), None) for _, matches in columns] for group in groups]
    numbers_found = [sum(point is not None for point in found) for found in all_found]
    rows = [
        (group[-1], found)
        for group, found, number in zip(groups, all_found, numbers_found, strict=True)
        if number > 1 or (is_gain_shown and number == len(group))
    ]
    used = [n for n in range(len(columns)) if any(found[n] for _, found in rows)]
    if not rows:
        return None
    lasts, names = [last for last, _ in rows], [columns[n][0] for n in used]
    has_gain = is_gain_shown and columns[used[0]] == BASELINE
    header = ["score on dev", *names, *(_gain_heads(names[1:]) if has_gain else [])]
    cells: list[list[str]] = []
    plain: list[list[Cell]] = [["task", *(f"{of}{end}" for of in names for end in ("", " deviation", " seeds"))]]
    for last, found in rows:
        chosen = [found[n] for n in used]
        title = task_name(last, lasts, "" if is_gain_shown else last.varied.encoder)
        cells.append([f"{title}, {last.metric}", *map(shown, chosen), *(_gains(chosen) if has_gain else [])])
        plain.append([title, *(number for p in chosen for number in _numbers(p)[:3])])
    return Table(name, header, cells, plain)


def _numbers(point: Point | None) -> list[Cell]:
    """Return mean, deviation, seeds and updates until the best score, as a CSV file has them."""
    if point is None:
        return [""] * 4
    return [point.mean, point.deviation, len(point.runs), point.best_step]


def _gain_heads(names: Sequence[str]) -> list[str]:
    """Return the headers of the gains of these columns."""
    ends = [f" {name}" for name in names] if len(names) > 1 else [""] * len(names)
    return [head for end in ends for head in (f"gain{end}", f"error reduction{end}")]


def _gains(found: Sequence[Point | None]) -> list[str]:
    """Return the gain of each other column over the first, and its share of the first one's error."""
    cells = []
    for point in found[1:]:
        if found[0] is None or point is None:
            cells += ["–", "–"]
            continue
        gain, error = point.mean - found[0].mean, 100 - found[0].mean
        cells += [f"{gain:+.1f}", f"{100 * gain / error:.0f} %" if error > 0 else "–"]
    return cells


@dataclass(frozen=True)
class Efficiency:
    """How a task learns from shares of its training data. curves: points by rising share."""

    task: str
    metric: str
    table: Table
    curves: dict[str, list[Point]]


def efficiency(points: Sequence[Point]) -> list[Efficiency]:
    """Return each study and task that has several shares of the training data."""
    on_defaults = [p for p in points if (p.varied.layers, p.varied.l2) == (DEFAULT, DEFAULT)]
    groups = _grouped(on_defaults, lambda varied: varied.others)
    chosen = [group for group in groups if len({p.varied.share for p in group}) > 1]
    firsts = [group[0] for group in chosen]
    return [_efficiency_of(group, task_name(group[0], firsts), n) for n, group in enumerate(chosen, 1)]


def _efficiency_of(group: Sequence[Point], task: str, number: int) -> Efficiency:
    curves: dict[str, list[Point]] = {}
    for point in sorted(group, key=lambda p: p.varied.share):
        curves.setdefault(_curve(point.varied), []).append(point)
    header = ["training data", *(title for name in curves for title in (name, "updates"))]
    ends = ("", " deviation", " seeds", " updates until the best")
    rows: list[list[str]] = []
    plain: list[list[Cell]] = [["share", *(f"{name}{end}" for name in curves for end in ends)]]
    for share in sorted({p.varied.share for p in group}):
        at = [next((p for p in curve if p.varied.share == share), None) for curve in curves.values()]
        cells = [(shown(p), f"{p.best_step:,.0f}" if p else "–") for p in at]
        rows.append([f"{100 * share:g} %", *(cell for two in cells for cell in two)])
        plain.append([share, *(number for p in at for number in _numbers(p))])
    table = Table(f"sample-efficiency-{number}", header, rows, plain)
    return Efficiency(task, group[0].metric, table, curves)


def _curve(varied: Varied) -> str:
    if varied.placement == "none":
        return "baseline"
    place = "" if varied.placement == DEFAULT else f" at {varied.placement}"
    return f"with {varied.encoder or 'ELMo'}{place}"


def weights(points: Sequence[Point]) -> Table | None:
    """Return the learned weight of each layer, by task and place, of mixes learned on the whole training data.

    Where runs have the task's own place and λ only those are shown, as in the paper.
    """
    learned = [p for p in points if p.varied.layers in (DEFAULT, "mix") and p.varied.share == 1]
    learned = [p for p in learned if any(len(p.mix(place)) > 1 for place in PLACES)]
    chosen = [p for p in learned if (p.varied.placement, p.varied.l2) == (DEFAULT, DEFAULT)] or learned
    if not chosen:
        return None
    layers = max(len(p.mix(place)) for p in chosen for place in PLACES)
    header = ["task", *(f"{place} {layer}" for place in PLACES for layer in range(layers))]
    rows: list[list[str]] = []
    plain: list[list[Cell]] = [[*header]]
    for point in chosen:
        varied, mixes = point.varied, [point.mix(place) for place in PLACES]
        details = [f"λ = {varied.l2}" if varied.l2 != DEFAULT else "", varied.encoder]
        name = task_name(point, chosen, *details, varied.placement if varied.placement != DEFAULT else "")
        values = [value for mix in mixes for value in (*mix, *[None] * (layers - len(mix)))]
        rows.append([name, *("" if value is None else f"{value:.2f}" for value in values)])
        plain.append([name, *("" if value is None else value for value in values)])
    return Table("learned-weights", header, rows, plain)
