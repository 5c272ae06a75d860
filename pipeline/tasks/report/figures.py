"""The figures of the report, by matplotlib, in colours that colour-blind readers can tell apart (Okabe and Ito 2008).

Lines differ in marker and dash too. Each figure is narrow, so that its text can be read on a phone.
"""

import io
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

from pipeline.config.schema import ConfigError
from pipeline.tasks.probes.word_senses import FIRST_SENSE
from pipeline.tasks.report.probe_tables import Scores
from pipeline.tasks.report.tables import PLACES, Efficiency, Table

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS, _DASHES = "osD^vPX", ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_WIDTH_INCHES, _POINTS, _DPI = 4.5, 10.5, 200
LOW, HIGH = 1 / 3, 2 / 3  # the paper's Figure 2 hatches weights below and dots weights above
_CHANCE = 50.0  # percent of minimal pairs that guessing gets right
_MOST_LETTERS = 26


def curves(found: Efficiency) -> Any:
    """Score against the share of the training data, with the spread over seeds as a band (the paper's Figure 1)."""
    figure, axes = _new(3.2)
    for number, (name, points) in enumerate(found.curves.items()):
        x = [100 * point.varied.share for point in points]
        scores = [point.scores() for point in points]
        colour, marker, dash = _style(number)
        axes.fill_between(x, [min(s) for s in scores], [max(s) for s in scores], color=colour, alpha=0.2, linewidth=0)
        axes.plot(x, [p.mean for p in points], color=colour, marker=marker, linestyle=dash, label=_label(name))
    shares = sorted({100 * p.varied.share for points in found.curves.values() for p in points})
    axes.set(xscale="log", xlabel="training data (%)", ylabel=f"{found.metric} on dev (%)", title=_label(found.task))
    axes.set_xticks(shares, [f"{share:g}" for share in shares])
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def heat_map(table: Table) -> Any:
    """The learned weights: a row a task, a column a layer; hatched below 1/3, dotted above 2/3, as in the paper."""
    rows = [[None if cell == "" else float(cell) for cell in row[1:]] for row in table.plain[1:]]
    layers = len(rows[0]) // len(PLACES)
    figure, axes = _new(1.2 + 0.38 * len(rows))
    for y, row in enumerate(rows):
        for x, value in enumerate(row):
            if value is not None:
                _cell(axes, x + (x >= layers) * 0.3, y, value)
    places = [x + (x >= layers) * 0.3 + 0.5 for x in range(2 * layers)]
    axes.set_xticks(places, [str(x % layers) for x in range(2 * layers)])
    axes.set_yticks([y + 0.5 for y in range(len(rows))], [_label(str(row[0])) for row in table.plain[1:]])
    axes.set(xlim=(0, 2 * layers + 0.3), ylim=(len(rows), 0), xlabel="layer")
    for number, place in enumerate(PLACES):
        axes.text(layers / 2 + number * (layers + 0.3), -0.15, place, ha="center", va="bottom", fontweight="bold")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _cell(axes: Any, x: float, y: int, value: float) -> None:
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    colour = colormaps["Blues"](0.1 + 0.8 * value)
    dark = value > 0.55
    hatch = "////" if value < LOW else "...." if value > HIGH else ""
    ink = "white" if dark else "black"
    style: dict[str, Any] = {"facecolor": colour, "edgecolor": ink, "linewidth": 0}
    axes.add_patch(Rectangle((x + 0.02, y + 0.04), 0.96, 0.92, **style))
    axes.add_patch(Rectangle((x + 0.02, y + 0.7), 0.96, 0.26, hatch=hatch, **style))  # below the number
    axes.text(x + 0.5, y + 0.4, f"{value:.2f}", ha="center", va="center", color=ink)


def layers(scores: Scores, ylabel: str) -> Any:
    """A line a source over its layers. The score of WordNet's first sense is a line of its own."""
    figure, axes = _new(3.0)
    names = list(dict.fromkeys(layer for of in scores.values() for layer in of if layer != FIRST_SENSE))
    for number, (name, of) in enumerate(scores.items()):
        x = [names.index(layer) for layer in of if layer != FIRST_SENSE]
        y = [score for layer, score in of.items() if layer != FIRST_SENSE]
        colour, marker, dash = _style(number)
        axes.plot(x, y, color=colour, marker=marker, linestyle=dash, label=_label(name))
    for score in dict.fromkeys(of[FIRST_SENSE] for of in scores.values() if FIRST_SENSE in of):
        axes.axhline(score, color="#555555", linewidth=1, label="WordNet's first sense")
    axes.set_xticks(range(len(names)), [_label(name) for name in names])
    axes.set(ylabel=ylabel)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", frameon=False, ncols=2)
    return figure


def fields(scores: Scores) -> Any:
    """Bars by field of minimal pairs, one a source, with the line of guessing."""
    names = list(dict.fromkeys(field for of in scores.values() for field in of))
    height = 0.8 / len(scores)
    figure, axes = _new(1.2 + 0.28 * len(names) * max(1, len(scores) * 0.7))
    for number, (name, of) in enumerate(scores.items()):
        y = [names.index(field) + number * height - 0.4 + height / 2 for field in of]
        hatch = ("", "//", "..", "xx", "--", "\\\\", "++")[number % 7]
        style = {"color": _style(number)[0], "hatch": hatch, "edgecolor": "white", "label": _label(name)}
        axes.barh(y, list(of.values()), height, **style)
    axes.axvline(_CHANCE, color="#555555", linewidth=1, linestyle="--")
    axes.set_yticks(range(len(names)), [_label(name) for name in names])
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.5, -0.5), xlabel="pairs that are right (%)")
    if len(scores) > 1:
        figure.legend(loc="outside upper center", frameon=False, ncols=2)
    return figure


def render(figure: Any, kind: str) -> bytes:
    """Return a figure as "svg" or "png", the same bytes each time."""
    import matplotlib

    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with warnings.catch_warnings(), matplotlib.rc_context({"svg.hashsalt": "elmo", "hatch.linewidth": 0.6}):
        warnings.filterwarnings("ignore", message="Glyph")  # of a script that the font lacks: a box stands for it
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
    return buffer.getvalue()


def _new(height: float) -> tuple[Any, Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "elmo report needs matplotlib, which is not installed; pip install 'elmo-pipeline[plot]'"
        ) from None
    with matplotlib.rc_context({"font.size": _POINTS}):
        figure = Figure(figsize=(_WIDTH_INCHES, height), layout="constrained")
        axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(number: int) -> tuple[str, str, Any]:
    return COLOURS[number % len(COLOURS)], _MARKERS[number % len(_MARKERS)], _DASHES[number % len(_DASHES)]


def _label(text: str) -> str:
    """Return text that fits, and in which matplotlib finds no TeX."""
    lines: Sequence[str] = textwrap.wrap(text, _MOST_LETTERS, max_lines=2, placeholder=" …") or [""]
    return "\n".join(lines).replace("$", r"\$")
