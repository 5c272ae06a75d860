"""`elmo plot`: draw the curves of one or several runs as a PNG or as one HTML page, without a server."""

import html
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_prep.dataset.files import write_bytes
from data_prep.dataset.locations import local_path
from pipeline.apply.watch.curves import RunCurves, read_curves
from pipeline.config.schema import ConfigError
from pipeline.config.watch import PlotConfig

_AGAINST = {"tokens": "tokens", "hours": "hours of training"}
_STYLES = (  # of perplexity: metric, label, line, weight
    ("train/sampled_perplexity", "training, sampled softmax (few candidates: not comparable)", "-", 0.35),
    ("train/perplexity", "training, full softmax, with dropout", "-", 0.35),
    ("val/perplexity_forward", "held out, forward", ":", 1.0),
    ("val/perplexity_backward", "held out, backward", "--", 1.0),
    ("val/perplexity", "held out, both", "o-", 1.0),
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: right; }}
th:first-child, td:first-child {{ text-align: left; }}
svg {{ width: 100%; height: auto; }}
</style>
</head>
<body>
<h1>{title}</h1>
{table}
{svg}
<p>Sampled perplexity is over a few candidate words and cannot be compared with held-out perplexity, which is over all.
Hours are of training: pauses, validation and saving are left out.</p>
</body>
</html>
"""


def main(config: PlotConfig) -> str:
    """Draw the runs into the file of output=; return the line to print."""
    output = local_path(config.output, "output")
    runs = [
        read_curves(Path(os.path.expanduser(run)), name)
        for run, name in zip(config.runs, names(config.runs), strict=True)
    ]
    figure = draw(runs)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(output, _png(figure) if output.suffix == ".png" else page(runs, _svg(figure)).encode())
    return f"{output}: {', '.join(run.name for run in runs)}"


def names(folders: list[str]) -> list[str]:
    """Return a distinct name for each run: the folder's name, or its path if two folders have the same name."""
    short = [os.path.basename(os.path.realpath(Path(os.path.expanduser(folder)))) for folder in folders]
    return short if len(set(short)) == len(short) else folders


def draw(runs: list[RunCurves]) -> Any:
    """Return a matplotlib Figure of perplexity, throughput and gradient norm against tokens and against hours."""
    figure = _figure(figsize=(13, 10))
    rows: tuple[tuple[str, Callable[[Any, RunCurves, str, str], None]], ...] = (
        ("perplexity", _draw_perplexity),
        ("tokens a second", _drawer("speed/tokens_per_second")),
        ("gradient norm", _drawer("train/gradient_norm")),
    )
    for row, (title, draw_run) in enumerate(rows):
        for column, against in enumerate(_AGAINST):
            axes = figure.add_subplot(len(rows), len(_AGAINST), row * len(_AGAINST) + column + 1, ylabel=title)
            axes.set_xlabel(_AGAINST[against])
            axes.set_yscale("linear" if row == 1 else "log")
            for number, run in enumerate(runs):
                draw_run(axes, run, against, f"C{number}")
            _finish(axes, against, bottom=0 if row == 1 else None)
    _add_legends(figure, runs)
    return figure


def plot_perplexity(run_dir: Path, png: Path) -> None:
    """Write the curves of a run against its steps. Raises ConfigError where the run has logged nothing."""
    figure = _figure(figsize=(7, 4.2))
    axes = figure.add_subplot(xlabel="step", ylabel="perplexity", yscale="log", title=_plain(f"{run_dir}: perplexity"))
    _draw_perplexity(axes, read_curves(run_dir), "step", "C3")
    _finish(axes, "step")
    axes.legend(frameon=False)
    write_bytes(png, _png(figure))


def page(runs: list[RunCurves], svg: str) -> str:
    """Return one self-contained HTML page: the last figures as a table and the curves as SVG."""
    title = "Training of " + ", ".join(run.name for run in runs)
    columns = {"run": "", "step": "", "tokens": "train/tokens", "held-out perplexity": "val/perplexity",
               "forward": "val/perplexity_forward", "backward": "val/perplexity_backward",
               "best held out": "best", "tokens/s": "speed/tokens_per_second"}  # fmt: skip
    rows = [[run.name, f"{max(run.metrics):,}", *(_last(run, key) for key in columns.values() if key)] for run in runs]
    cells = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    head = "<tr>" + "".join(f"<th>{name}</th>" for name in columns) + "</tr>"
    table = "\n".join(["<table>", head, *cells, "</table>"])
    return _PAGE.format(title=html.escape(title), table=table, svg=svg)


def _last(run: RunCurves, metric: str) -> str:
    if metric == "best":
        values = [point[1] for point in run.of("val/perplexity")]
        return f"{min(values):,.2f}" if values else "-"
    points = run.of(metric)
    if not points:
        return "-"
    return f"{points[-1][1]:,.0f}" if metric in ("train/tokens", "speed/tokens_per_second") else f"{points[-1][1]:,.2f}"


def _figure(figsize: tuple[float, float]) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("plots need matplotlib, which is not installed; pip install 'elmo-pipeline[plot]'") from None
    return Figure(figsize=figsize, layout="constrained")


def _draw_perplexity(axes: Any, run: RunCurves, against: str, color: str) -> None:
    for metric, label, line, weight in _STYLES:
        points = run.of(metric, against)
        if points and not (against == "step" and metric.endswith("ward")):  # a small picture has two curves
            grey = against == "step" and weight < 1
            style = {"color": "C7" if grey else color, "alpha": 1.0 if grey else weight}
            axes.plot(*zip(*points, strict=True), line, label=label, markersize=3, linewidth=1.2, **style)


def _drawer(metric: str) -> Callable[[Any, RunCurves, str, str], None]:
    def draw_run(axes: Any, run: RunCurves, against: str, color: str) -> None:
        points = run.of(metric, against)
        if points:
            axes.plot(*zip(*points, strict=True), color=color, linewidth=1)

    return draw_run


def _finish(axes: Any, against: str, bottom: float | None = None) -> None:
    from matplotlib.ticker import EngFormatter

    axes.grid(which="both", alpha=0.25)
    axes.set_xlim(left=0)
    if bottom is not None:
        axes.set_ylim(bottom=bottom)
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        labelled = "12345678" if high < 10 * low else "1235"  # more would overlap
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")  # 60, not 6 x 10^1
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in labelled else "")
    if against == "tokens":
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def _add_legends(figure: Any, runs: list[RunCurves]) -> None:
    """Add a legend: a colour for each run, a line style for each kind of perplexity."""
    from matplotlib.lines import Line2D

    colours = [
        Line2D([], [], color=f"C{number}", linewidth=3, label=_plain(run.name)) for number, run in enumerate(runs)
    ]
    drawn = [style for style in _STYLES if any(run.of(style[0]) for run in runs)]
    lines = []
    for _, label, line, weight in drawn:
        style: Any = {"linestyle": line.replace("o", ""), "marker": "o" if "o" in line else None, "alpha": weight}
        lines.append(Line2D([], [], color="0.3", markersize=3, label=label, **style))
    figure.legend(handles=[*colours, *lines], loc="outside upper left", ncols=2, frameon=False)


def _plain(text: str) -> str:
    """Return the text as matplotlib shows it unchanged; between two dollar signs it would read TeX."""
    return text.replace("$", r"\$")


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _svg(figure: Any) -> str:
    """Return the figure as an <svg> element whose text stays text."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "elmo"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
