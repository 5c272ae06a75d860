"""Train sizes for several budgets of tokens, and fit the law that `elmo plan` predicts held-out perplexity with.

python -m benchmarks.scaling OUT TRAIN HELDOUT [--sizes=nano,micro,mini] [--millions=0.5,1.25,3] [--also=nano:10]
    [--check=small:1.25] [--text=NAME] [--words=60000] [--lanes=32] [--validate=100000] [--raw] [key=value ...]

Every size is trained once for each budget, in millions of tokens each way, by `elmo pretrain SIZE fast` with one
thread, one run after the other. Each run decays its learning rate to 0 at the end of its own budget, as the law needs
(Hoffmann et al. 2022, section 3.1). --also: SIZE:MILLIONS,... of more runs of the fit. --check: SIZE:MILLIONS of one
more run, which the fit does not use. --words: size of the vocabulary. --validate: held-out tokens. --raw: the text is
not tokenised. OUT/data is made of TRAIN and HELDOUT unless it is there. Killed and started again, the command resumes
the run that was under way and repeats none that has ended. OUT gets law.json, for configs/ or for `elmo plan law=`.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure.command import split_options, table, write_result
from benchmarks.scaling.fit import fit_law
from data_prep.dataset.files import write_json
from data_prep.dataset.index import INDEX
from data_prep.dataset.open import open_dataset
from data_prep.prepare import prepare
from pipeline.apply.watch.curves import read_curves
from pipeline.budget.law import Check, Law, LawRun, millions
from pipeline.config.load import load
from pipeline.config.schema import DataConfig, PretrainConfig
from pipeline.data.vocabulary import choose_vocabulary
from pipeline.model.bilm import num_layer_parameters
from pipeline.train.run_dir.records import git_revision, read_end
from pipeline.train.trainer import launching_ranks

_NEVER = 1 << 40  # steps


@dataclass(frozen=True)
class Training:
    """A run to do. size: a config. tokens: each way, at most; a run has whole steps."""

    size: str
    tokens: int

    @property
    def name(self) -> str:
        return f"{self.size}-{self.tokens}"


def train(training: Training, dataset: Path, out: Path, options: dict[str, Any], more: list[str]) -> LawRun:
    """Train a run to its end, unless it has ended; return its figures."""
    run_dir = out / "runs" / training.name
    files_first = _settings(training.size, options, more)
    config = load(PretrainConfig, files_first)
    steps = training.tokens // config.data.tokens_per_step
    asked = [*files_first, f"train.max_steps={steps}", f"train.validate_tokens={options['validate']}"]
    own = [f"train.validate_every_steps={_NEVER}", f"data.path={dataset}", f"run.dir={run_dir}", "wandb.mode=disabled"]
    command = ["pretrain", *asked, *own]
    _require_same(run_dir.with_suffix(".asked.json"), asked)
    if read_end(run_dir).get("text") != f"step {steps:,} of {steps:,}":
        print(f"$ elmo {' '.join(command)}", file=sys.stderr, flush=True)
        # As a rank of this process, the training ends with it; it would keep the folder of the run otherwise.
        with run_dir.with_suffix(".log").open("a") as log, launching_ranks():
            subprocess.run([sys.executable, "-m", "pipeline.cli", *command], check=True, stdout=log, stderr=log)
    return _figures(training.name, num_layer_parameters(config.model), run_dir, steps)


def _settings(size: str, options: dict[str, Any], more: list[str]) -> list[str]:
    of_all = [f"data.vocab_size={options['words']}", f"data.lanes={options['lanes']}", "train.threads=1"]
    return [size, "fast", *of_all, *more]


def _require_same(record: Path, asked: list[str]) -> None:
    """Refuse a run of other settings in the place of this one."""
    if record.exists() and json.loads(record.read_text()) != asked:
        raise SystemExit(f"{record} is of a run with other options: give those again, or another folder as OUT")
    record.parent.mkdir(parents=True, exist_ok=True)
    write_json(record, asked)


def _figures(name: str, parameters: int, run_dir: Path, steps: int) -> LawRun:
    curves = read_curves(run_dir)
    (tokens, perplexity), hours = curves.of("val/perplexity", "tokens")[-1], curves.of("val/perplexity", "hours")[-1][0]
    return LawRun(name, parameters, int(tokens), perplexity, float(f"{3600 * hours / steps:.4g}"))


def prepared(out: Path, train_text: str, heldout_text: str, is_raw: bool) -> Path:
    """Make the dataset OUT/data, unless it is there; return its folder."""
    if not (out / "data" / INDEX).exists():
        prepare([train_text], out / "data", heldout_inputs=[heldout_text], tokenize=is_raw)
    return out / "data"


def law_of(runs: list[LawRun], checked: LawRun, text: str, data: DataConfig) -> Law:
    """Fit the law to the runs, and predict the one that they do not include. data: the settings of the runs."""
    fit = fit_law(runs)
    predicted = fit.curve.perplexity(checked.parameters, checked.tokens)
    words = choose_vocabulary(open_dataset(data.path), data)
    commit = (git_revision() or "unknown")[:12]
    check = Check(checked, float(f"{predicted:.6g}"), float(f"{predicted / checked.perplexity - 1:.4g}"))
    about = (text, words, data.lanes, data.window, time.strftime("%Y-%m-%d"), commit)
    return Law(*about, fit.exponent, fit.curve, fit.resampled, runs, check)


def table_of(law: Law) -> str:
    """Return the runs, their predictions and the law as Markdown."""
    rows = []
    for run in [*law.runs, law.check.run]:
        predicted = law.fit.perplexity(run.parameters, run.tokens)
        name = run.name if run != law.check.run else f"{run.name}, not in the fit"
        cells = [name, f"{run.parameters:,}", millions(run.tokens), f"{run.perplexity:.1f}", f"{predicted:.1f}"]
        rows.append([*cells, f"{predicted / run.perplexity - 1:+.1%}", f"{run.seconds_per_step:.3f}"])
    curve = law.fit
    formula = (
        f"loss = {curve.irreducible:.3g} + ({curve.size_factor:.3g} / parameters^{curve.size_exponent:.3g} + "
        f"{curve.token_factor:.3g} / tokens^{curve.token_exponent:.3g})^{curve.sum_exponent:.3g}, exponents of "
        f"parameters and tokens {law.exponent}"
    )
    heads = ["run", "LSTM parameters", "tokens", "perplexity", "predicted", "error", "seconds a step"]
    return f"{table(heads, rows)}\n\n{formula}"


def _trainings(options: dict[str, Any]) -> tuple[list[Training], Training]:
    """Return the runs of the fit, and the one that checks it."""
    sizes = options["sizes"].split(",")
    try:
        lengths, checked = sorted(map(_tokens, options["millions"].split(","))), _training(options["check"])
        more = [_training(text) for text in filter(None, options["also"].split(","))]
    except ValueError:
        raise SystemExit("give millions of tokens, as in --millions=0.5,1.25,3 and --check=small:1.25") from None
    fitted = list(dict.fromkeys([*(Training(size, length) for length in lengths for size in sizes), *more]))
    if len(fitted) < 4:
        raise SystemExit("give four runs or more by --sizes=, --millions= and --also=")
    if checked in fitted:
        raise SystemExit(f"--check={options['check']} is one of the runs that the law is fitted to; name another one")
    return fitted, checked


def _training(text: str) -> Training:
    size, _, millions_as_text = text.partition(":")
    return Training(size, _tokens(millions_as_text))


def _tokens(millions_as_text: str) -> int:
    return round(1e6 * float(millions_as_text))


def main(arguments: list[str]) -> None:
    """Train what is not trained yet, fit the law; print the table and write law.json."""
    defaults = {"sizes": "nano,micro,mini", "millions": "0.5,1.25,3", "also": "", "check": "small:1.25"}
    numbers = {"words": 60_000, "lanes": 32, "validate": 100_000}
    options, rest = split_options(__doc__, arguments, **defaults, **numbers, text="text", raw=False)
    places, more = [a for a in rest if "=" not in a], [a for a in rest if "=" in a]
    if len(places) != 3:
        raise SystemExit("give three arguments: OUT TRAIN HELDOUT")
    out, train_text, heldout_text = Path(places[0]), places[1], places[2]
    fitted, check = _trainings(options)
    dataset = prepared(out, train_text, heldout_text, options["raw"])
    in_order = sorted([*fitted, check], key=lambda training: training.tokens)
    runs = {training: train(training, dataset, out, options, more) for training in in_order}
    data = load(PretrainConfig, _settings(check.size, options, more)).data
    data.path = str(dataset)
    law = law_of([runs[training] for training in fitted], runs[check], options["text"], data)
    print(table_of(law))
    write_result(options["output"] or str(out / "law.json"), json.loads(json.dumps(asdict(law))))


if __name__ == "__main__":
    main(sys.argv[1:])
