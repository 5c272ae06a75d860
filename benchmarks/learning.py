"""Measure the tokens and seconds in which recipes reach a reference's held-out perplexity: one tiny biLM, one text.

python -m benchmarks.learning OUT TRAIN HELDOUT [--recipes=NAME,NAME] [--seeds=1] [--closer=NAME,NAME]
    [--target=183.4] [--at-once=2] [key=value ...]

TRAIN and HELDOUT: WikiText-2, one paragraph per line. Empty lines are dropped and <unk> becomes <UNK>, as in the
reference: bilm-tf under TensorFlow 2.21, benchmarks/tiny.yaml, 32 lanes x 20, Adagrad, three epochs. bilm-tf reached
176.8 over the 195,072 held-out tokens that it scores; here all 216,347 tokens are scored. --closer: recipes to score
also over the tokens that bilm-tf scores.

Every recipe keeps the network and what can be exported. Each run is `elmo pretrain` with one thread; --at-once runs are
trained at the same time. Unfinished runs of an earlier call are resumed, finished ones are not repeated. Seconds are of
training without validation, and depend on what else runs. Tokens to the target: at the first validation at or below it;
183.4 is the result of `original`. OUT gets learning.json, learning.md and learning.png.
"""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.bilm_tf_scoring import perplexity_as_bilm_tf_scores
from benchmarks.measure.command import require_known, split_options, table, write_result
from data_prep.dataset.index import INDEX
from data_prep.prepare import prepare
from data_prep.text.corpus import read_blocks
from pipeline.apply.load import load_trained
from pipeline.apply.watch.curves import RunCurves, read_curves
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.train.run_dir.checkpoint import CheckpointFolder

CONFIG, TARGET = "benchmarks/tiny.yaml", 183.4  # the result of `original`
BASE = ["data.lanes=32", "data.vocab_min_count=1", "data.cold_start_share=0"]  # as in the paper
TWO_ORDERS = ["data.order=per_direction", "softmax.candidates=per_direction", "data.cold_start_share=0.03"]
RECIPES: dict[str, list[str]] = {
    "original": ["train.epochs=3"],
    "original in two orders": ["train.epochs=3", *TWO_ORDERS],
    "original from unigrams": ["train.epochs=3", "softmax.init=unigram"],
    "fast": ["configs/fast.yaml", "train.epochs=0.6"],
}
_VALIDATE_TOKENS = 512_000  # as many between checkpoints


def prepared(out: Path, texts: list[Path]) -> Path:
    """Make the dataset OUT/data of both texts, without empty lines and with <UNK>; return its folder."""
    folder = out / "text"
    if (out / "data" / INDEX).exists():
        return out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for text, name in zip(texts, ("train.txt", "heldout.txt"), strict=True):
        with (folder / name).open("wb") as file:
            for block, _ in read_blocks(str(text)):
                lines = [line for line in block.data.replace(b"<unk>", b"<UNK>").split(b"\n") if line.strip()]
                file.writelines(line + b"\n" for line in lines)
    prepare([str(folder / "train.txt")], out / "data", heldout_inputs=[str(folder / "heldout.txt")])
    return out / "data"


def train(dataset: Path, run_dir: Path, recipe: list[str], seed: int, more: list[str]) -> None:
    """Run one training to its end."""
    own = [f"data.path={dataset}", f"run.dir={run_dir}", f"run.seed={seed}", "train.threads=1", "wandb.mode=disabled"]
    files_first = [CONFIG, *sorted([*BASE, *recipe], key=lambda argument: "=" in argument)]
    data = load(PretrainConfig, [*files_first, *more]).data
    every = max(1, _VALIDATE_TOKENS // (data.lanes * data.window))
    own += [f"checkpoint.every_steps={every}", f"train.validate_every_steps={every}"]
    command = ["pretrain", *files_first, *own, *more]
    print(f"$ elmo {' '.join(command)}", file=sys.stderr, flush=True)
    with run_dir.with_suffix(".log").open("a") as log:
        subprocess.run([sys.executable, "-m", "pipeline.cli", *command], check=True, stdout=log, stderr=log)


def figures(curves: RunCurves, target: float) -> dict[str, Any]:
    """Return a run's final figures and when it first reached the target; None: never."""
    tokens, hours = (curves.of("val/perplexity", against) for against in ("tokens", "hours"))
    reached = next((place for place, (_, perplexity) in enumerate(tokens) if perplexity <= target), None)
    result = {"perplexity": tokens[-1][1], "tokens": tokens[-1][0], "seconds": 3600 * hours[-1][0], "curve": tokens}
    result["tokens_to_target"] = None if reached is None else tokens[reached][0]
    result["seconds_to_target"] = None if reached is None else 3600 * hours[reached][0]
    return result


def closer_figures(run_dir: Path, out: Path) -> dict[str, float]:
    """Return the perplexity over the tokens that bilm-tf scores, and their number."""
    folder = CheckpointFolder(run_dir / "checkpoints")
    newest = load_trained(str(folder.path(folder.records()[-1])))
    scored = perplexity_as_bilm_tf_scores(newest, out / "text" / "heldout.txt")
    return {"as_bilm_tf_scores": scored.both, "bilm_tf_tokens": scored.tokens}


def table_of(found: dict[str, list[dict[str, Any]]], target: float) -> str:
    """Return the table as Markdown: a row for each recipe, seeds side by side."""
    rows = []
    for name, seeds in found.items():
        to_target = [(seed["tokens_to_target"], seed["seconds_to_target"]) for seed in seeds]
        is_reached = (None, None) not in to_target
        last = [f"{max(to_target)[0] / 1e6:.2f} M", f"{max(to_target)[1]:,.0f}"] if is_reached else ["not reached", "-"]
        perplexities, tokens = ", ".join(map(_reached, seeds)), f"{seeds[0]['tokens'] / 1e6:.2f} M"
        rows.append([name, f"`{' '.join(RECIPES[name])}`", perplexities, tokens, *last])
    return table(["recipe", "difference", "held-out perplexity", "tokens", f"tokens to {target:g}", "seconds"], rows)


def _reached(figures: dict[str, Any]) -> str:
    closer = " ({as_bilm_tf_scores:.1f} on the {bilm_tf_tokens:,} tokens that bilm-tf scores)"
    return f"{figures['perplexity']:.1f}" + (closer.format(**figures) if "bilm_tf_tokens" in figures else "")


def draw(found: dict[str, list[dict[str, Any]]], target: float, path: Path) -> None:
    """Plot held-out perplexity against tokens: one curve for each recipe, of its first seed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import ScalarFormatter

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="million training tokens, each way", ylabel="held-out perplexity", yscale="log")
    for name, seeds in found.items():
        tokens, perplexities = zip(*seeds[0]["curve"], strict=True)
        axes.plot([number / 1e6 for number in tokens], perplexities, marker="o", markersize=3, label=name)
    axes.axhline(target, color="black", linestyle=":", label=f"{target:g}")
    for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis(ScalarFormatter())
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main(arguments: list[str]) -> None:
    """Train what is not trained yet; print the table; write table, figures and curves into OUT."""
    defaults = {"recipes": ",".join(RECIPES), "seeds": "1", "closer": "", "target": TARGET, "at_once": 2}
    options, rest = split_options(__doc__, arguments, **defaults)
    folders, more = [Path(a) for a in rest if "=" not in a], [a for a in rest if "=" in a]
    if len(folders) != 3:
        raise SystemExit("give three arguments: OUT TRAIN HELDOUT")
    out, *texts = folders
    names, seeds = options["recipes"].split(","), [int(seed) for seed in options["seeds"].split(",")]
    require_known("recipes", names, RECIPES)
    dataset = prepared(out, texts)
    runs = {(name, seed): out / "runs" / f"{name.replace(' ', '-')}-seed-{seed}" for name in names for seed in seeds}
    (out / "runs").mkdir(exist_ok=True)
    with ThreadPoolExecutor(options["at_once"]) as pool:
        jobs = [pool.submit(train, dataset, run, RECIPES[name], seed, more) for (name, seed), run in runs.items()]
        for job in jobs:
            job.result()
    target = options["target"]
    found = {name: [figures(read_curves(runs[name, seed]), target) for seed in seeds] for name in names}
    for name in filter(None, options["closer"].split(",")):
        found[name][0] |= closer_figures(runs[name, seeds[0]], out)
    (out / "learning.md").write_text(f"{table_of(found, target)}\n")
    draw(found, target, out / "learning.png")
    write_result(options["output"] or str(out / "learning.json"), found)
    print(table_of(found, target))


if __name__ == "__main__":
    main(sys.argv[1:])
