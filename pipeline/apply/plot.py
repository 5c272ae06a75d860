"""Perplexity over a run as a PNG, from the lines of its metrics.jsonl."""

from pathlib import Path

from pipeline.config import ConfigError
from pipeline.train.tracking import read_metrics


def plot_perplexity(run_dir: Path, png: Path) -> None:
    """Write the curves of a run. The two are different numbers: sampled perplexity is over a few candidate words.

    Raises ConfigError where the run has logged nothing.
    """
    sampled, exact = _series(run_dir, "train/sampled_perplexity"), _series(run_dir, "train/perplexity")
    held_out = _series(run_dir, "val/perplexity")
    if not (sampled or exact or held_out):
        raise ConfigError(f"{run_dir} has no metrics to draw; give the folder of a run that has trained")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="perplexity", yscale="log", title=f"{run_dir}: perplexity")
    for points, label, style in (
        (sampled, "training, sampled softmax (few candidates: not comparable)", "C7-"),
        (exact, "training, full softmax, with dropout", "C0-"),
        (held_out, "held out, full softmax", "C3o-"),
    ):
        if points:
            axes.plot(list(points), list(points.values()), style, label=label, markersize=4, linewidth=1.2)
    axes.grid(which="both", alpha=0.25)
    axes.legend(frameon=False)
    FigureCanvasAgg(figure).print_png(str(png))


def _series(run_dir: Path, name: str) -> dict[int, float]:
    return {step: values[name] for step, values in sorted(read_metrics(run_dir).items()) if name in values}
