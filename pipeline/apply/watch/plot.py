"""`elmo plot`: draw the curves of one or several runs as a PNG, or as one HTML page that shows values under the mouse.

matplotlib draws the PNG. Bokeh draws the page and stands in the page itself (1.3 MB; plotly would take 4.8 MB), so that
the page needs neither a network nor a server.
"""

import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset.files import write_bytes
from data_prep.dataset.locations import local_path
from pipeline.apply.watch.curves import RunCurves, read_curves
from pipeline.config.schema import ConfigError
from pipeline.config.watch import PlotConfig


@dataclass(frozen=True)
class Curve:
    """A metric, drawn as a line. dash, alpha: as matplotlib and Bokeh name them. has_dots: mark each point."""

    metric: str
    label: str = ""
    dash: str = "solid"
    alpha: float = 1.0
    has_dots: bool = False


@dataclass(frozen=True)
class Panel:
    title: str
    curves: tuple[Curve, ...]
    is_log: bool = True


PANELS = (
    Panel(
        "perplexity",
        (
            Curve("train/sampled_perplexity", "training, sampled softmax (few candidates: not comparable)", alpha=0.35),
            Curve("train/perplexity", "training, full softmax, with dropout", alpha=0.35),
            Curve("val/perplexity_forward", "held out, forward", "dotted"),
            Curve("val/perplexity_backward", "held out, backward", "dashed"),
            Curve("val/perplexity", "held out, both", has_dots=True),
        ),
    ),
    Panel("tokens a second", (Curve("speed/tokens_per_second"),), is_log=False),
    Panel("gradient norm", (Curve("train/gradient_norm"),)),
)
AGAINST = {"tokens": "tokens", "hours": "hours of training", "step": "steps"}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
</style>
{library}
</head>
<body>
<h1>{title}</h1>
{table}
<p>Sampled perplexity is over a few candidate words and cannot be compared with held-out perplexity, which is over all.
Hours are of training: pauses, validation and saving are left out. A click on an entry of the legend hides a curve.</p>
{curves}
</body>
</html>
"""


def main(config: PlotConfig) -> str:
    """Draw the runs into the file of output=; return the line to print."""
    output = local_path(config.output, "output")
    folders = [Path(os.path.expanduser(run)) for run in config.runs]
    runs = [read_curves(folder, name) for folder, name in zip(folders, names(config.runs), strict=True)]
    content = png(draw(runs)) if output.suffix == ".png" else page(runs).encode()
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, content)
    return f"{output}: {', '.join(run.name for run in runs)}"


def names(folders: list[str]) -> list[str]:
    """Return a distinct name for each run: the folder's name, or its path if two folders have the same name."""
    short = [os.path.basename(os.path.realpath(Path(os.path.expanduser(folder)))) for folder in folders]
    return short if len(set(short)) == len(short) else folders


def draw(runs: Sequence[RunCurves]) -> Any:
    """Return a matplotlib Figure with a row for each panel, against tokens and against hours."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import EngFormatter
    except ImportError:
        raise _missing("matplotlib") from None
    figure = Figure(figsize=(13, 10), layout="constrained")
    for panel, row in zip(PANELS, figure.subplots(len(PANELS), 2), strict=True):
        for against, axes in zip(("tokens", "hours"), row, strict=True):
            axes.set(xlabel=AGAINST[against], ylabel=panel.title, yscale="log" if panel.is_log else "linear")
            lines = [_line(axes, run, curve, against, f"C{n}") for n, run in enumerate(runs) for curve in panel.curves]
            axes.grid(which="both", alpha=0.25)
            axes.set_xlim(left=0)
            if against == "tokens":
                axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            if panel.is_log:
                axes.yaxis.set_major_formatter("{x:g}")  # 100, not 10^2
                axes.yaxis.set_minor_formatter(lambda y, _: f"{y:g}" if f"{y:e}"[0] in "235" else "")  # others overlap
            else:
                axes.set_ylim(bottom=0)
            if (panel, against) == (PANELS[0], "tokens"):
                shown = [line for line in lines if line]
                figure.legend(handles=shown, loc="outside upper left", ncols=2, frameon=False)
    return figure


def _line(axes: Any, run: RunCurves, curve: Curve, against: str, color: str) -> Any:
    """Draw a curve and return its line, None if the run has no such metric."""
    points = run.of(curve.metric, against)
    label = f"{run.name}: {curve.label}".replace("$", r"\$")  # between two dollar signs matplotlib reads TeX
    marker = "o" if curve.has_dots else None
    style: Any = {"linestyle": curve.dash, "marker": marker, "alpha": curve.alpha, "color": color, "label": label}
    return axes.plot(*zip(*points, strict=True), markersize=3, linewidth=1.2, **style)[0] if points else None


def png(figure: Any) -> bytes:
    """Return a matplotlib figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def page(runs: Sequence[RunCurves]) -> str:
    """Return one self-contained HTML page: the last figures as a table, and the curves, a tab for each of AGAINST."""
    try:
        from bokeh.embed import components
        from bokeh.models import TabPanel, Tabs
        from bokeh.resources import Resources
    except ImportError:
        raise _missing("bokeh") from None
    panels = [TabPanel(child=_column(runs, against), title=name) for against, name in AGAINST.items()]
    tabs = Tabs(tabs=panels, sizing_mode="stretch_width")
    script, place = components(tabs)
    title = html.escape("Training of " + ", ".join(run.name for run in runs))
    library = Resources(mode="inline", components=["bokeh"]).render()
    return _PAGE.format(title=title, library=library, table=_table(runs), curves=f"{place}\n{script}")


def _column(runs: Sequence[RunCurves], against: str) -> Any:
    """Return the panels below one another, with one x axis for all."""
    from bokeh.layouts import column
    from bokeh.models import DataRange1d, HoverTool, NumeralTickFormatter
    from bokeh.plotting import figure

    plots = []
    x_range = DataRange1d(start=0)
    for panel in PANELS:
        shape: Any = {"frame_height": 330, "sizing_mode": "stretch_width", "x_range": x_range}
        axes: Any = {"x_axis_label": AGAINST[against], "y_axis_label": panel.title}
        axes["y_axis_type"] = "log" if panel.is_log else "linear"
        plot = figure(tools="xpan,xwheel_zoom,box_zoom,reset", **shape, **axes)
        tooltips = [("", "$name"), (AGAINST[against], "@x{0,0.[000]}"), (panel.title, "@y{0,0.[000]}")]
        plot.add_tools(HoverTool(tooltips=tooltips))
        plot.xaxis.formatter = NumeralTickFormatter(format="0.[00]a")
        _draw_lines(plot, runs, panel, against)
        if plot.legend:
            plot.add_layout(plot.legend[0], "above")
            plot.legend.update(click_policy="hide", ncols=2)
        plots.append(plot)
    return column(plots, sizing_mode="stretch_width")


def _draw_lines(plot: Any, runs: Sequence[RunCurves], panel: Panel, against: str) -> None:
    from bokeh.palettes import Category10_10

    for number, run in enumerate(runs):
        for curve in panel.curves:
            if points := run.of(curve.metric, against):
                x, y = zip(*points, strict=True)
                label: Any = {"legend_label": f"{run.name}: {curve.label}"} if curve.label else {}
                style: Any = {"color": Category10_10[number % 10], "alpha": curve.alpha, "name": run.name} | label
                plot.line(x, y, line_dash=curve.dash, line_width=1.5, **style)
                if curve.has_dots:
                    plot.scatter(x, y, size=5, **style)


def _table(runs: Sequence[RunCurves]) -> str:
    metrics = {
        "tokens": "train/tokens",
        "held-out perplexity": "val/perplexity",
        "forward": "val/perplexity_forward",
        "backward": "val/perplexity_backward",
        "tokens/s": "speed/tokens_per_second",
    }
    rows = [["run", "step", *metrics, "best held out"]]
    for run in runs:
        values = {metric: [y for _, y in run.of(metric)] for metric in metrics.values()}
        last = [_shown(found[-1:]) for found in values.values()]
        best = _shown(sorted(values["val/perplexity"])[:1])
        rows.append([html.escape(run.name), f"{max(run.metrics):,}", *last, best])
    cells = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join(["<table>", cells[0].replace("td>", "th>"), *cells[1:], "</table>"])


def _shown(value: list[float]) -> str:
    return f"{value[0]:,.{0 if value[0] >= 1000 else 2}f}" if value else "-"


def _missing(library: str) -> ConfigError:
    return ConfigError(f"plots need {library}, which is not installed; pip install 'elmo-pipeline[plot]'")
