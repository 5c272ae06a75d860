"""Measure the peak memory of a training run, compared with the size of parameters, optimizer and activations.

python -m benchmarks.memory [data.path=DATASET] [configs/original.yaml] [key=value ...] [--lanes=32] [--steps=3]
    [--threads=N] [--output=FILE]

The run is `elmo pretrain` in a process of its own, checkpoint at its end included. Without data.path its text is a
synthetic corpus (benchmarks.synthetic) of 10 M words whose lexicon holds the original vocabulary of 793,471 words.
Computed sizes, all in float32: parameters; Adagrad's accumulators; gradients of all parameters except the table; copies
of the touched rows and their gradients; a window's activations for backward. The size of Python and its libraries is
measured and added.
"""

import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure.command import split_options, table, write_result, yaml_files
from benchmarks.measure.timed_step import Text
from benchmarks.synthetic import Corpus, write_corpus
from data_prep.prepare import prepare
from pipeline.characters import PAD
from pipeline.config.load import load
from pipeline.config.schema import PretrainConfig
from pipeline.model.bilm import num_parameters
from pipeline.model.language_model import LanguageModel

_NEVER = 1 << 30
_EMPTY = "import pipeline.train.run; print(open('/proc/self/status').read())"


def on_paper(config: PretrainConfig, vocabulary: int, words: int, rows: int, characters: float) -> dict[str, float]:
    """Return bytes by kind. words: unique words of a window. rows: touched rows. characters: mean ids of a word."""
    model = config.model
    with torch.device("meta"):
        sizes = num_parameters(LanguageModel(model, vocabulary))
    width, hidden = model.projection_dim, model.lstm_dim
    positions = 2 * config.data.lanes * config.data.window
    filters = sum(number for _, number in model.filters)
    # gates, c, tanh(c) and o * tanh(c); the layer's input, h, and the next layer's input after dropout
    layers = model.num_layers * positions * (7 * hidden + 3 * width)
    # convolutions and their maxima; for each highway layer: input, gate, transform before and after relu
    encoder = words * (filters * (characters + 1) + model.num_highway * 4 * filters + width)
    softmax = positions * (config.softmax.num_samples + 2 * width)
    floats = {
        "parameters": sizes["bilm"] + sizes["softmax"],
        "optimizer": sizes["bilm"] + sizes["softmax"],
        "dense gradients": sizes["bilm"],
        "touched rows": 2 * rows * (width + 1),
        "activations": layers + encoder + softmax,
    }
    return {name: 4.0 * number for name, number in floats.items()}


def empty_process_bytes() -> float:
    """Return the peak memory of a process that only imports what training needs."""
    done = subprocess.run([sys.executable, "-c", _EMPTY], capture_output=True, text=True, check=True)
    return next(1024.0 * int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("VmHWM:"))


def measure(arguments: list[str], lanes: int, steps: int, threads: int, folder: Path) -> dict[str, Any]:
    """Return the figures. arguments: for `elmo pretrain`, data.path included."""
    own = [f"data.lanes={lanes}", "data.workers=0", "data.vocab_min_count=1", f"train.threads={threads}"]
    own += [f"train.max_steps={steps}", "train.epochs=1e6", f"train.validate_every_steps={_NEVER}"]
    own += ["train.validate_tokens=64", "wandb.mode=disabled", f"run.dir={folder}/run"]
    command = [*arguments[:1], *own, *arguments[1:]]
    subprocess.run([sys.executable, "-m", "pipeline.cli", "pretrain", *command], check=True, stdout=subprocess.DEVNULL)
    peak = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # the highest of all ended processes
    config = load(PretrainConfig, command)
    text = Text(config)
    batch, candidates = text.draw(0)
    rows = len(torch.unique(torch.cat([batch.targets.flatten(), candidates.ids.flatten()])))
    characters = float((batch.characters != PAD).sum()) / len(batch.characters)
    paper = on_paper(config, text.vocabulary, len(batch.characters), rows, characters)
    libraries = empty_process_bytes()
    result = {"lanes": lanes, "vocabulary": text.vocabulary, "paper": paper, "libraries": libraries}
    return result | {"peak_bytes": peak, "ratio": (peak - libraries) / sum(paper.values())}


def main(arguments: list[str]) -> None:
    """Print the table and, with --output, write the figures as JSON."""
    options, rest = split_options(__doc__, arguments, lanes=32, steps=3)
    files, pairs = yaml_files(rest, "configs/original.yaml")
    with tempfile.TemporaryDirectory() as name:
        if not any(pair.startswith("data.path=") for pair in pairs):
            text, _ = write_corpus(Path(name, "text"), Corpus(sentences=400_000, files=2, tail=1.2), workers=2)
            prepare(text, Path(name, "data"), workers=2)  # 10 M words of 1.4 M types
            pairs.append(f"data.path={name}/data")
        command = [*files, *pairs]
        result = measure(command, options["lanes"], options["steps"], options["threads"], Path(name))
    paper = result["paper"] | {f"on paper, {result['vocabulary']:,} words": sum(result["paper"].values())}
    rows = paper | {"Python and libraries": result["libraries"], "peak of the run": result["peak_bytes"]}
    print(table(["memory", "MB"], [[name, f"{num_bytes / 1e6:,.0f}"] for name, num_bytes in rows.items()]))
    print(f"without Python and libraries {result['ratio']:.2f} x what the run takes on paper")
    write_result(options["output"], result)


if __name__ == "__main__":
    main(sys.argv[1:])
