"""`elmo plan`: the speed of configs on this machine, their tokens in some hours, and the perplexity to expect."""

import math
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.budget.law import Law, Prediction, effective_tokens, millions, read_law
from pipeline.budget.speed import CannotTrainError, measure_speed
from pipeline.config.commands import BudgetConfig
from pipeline.config.load import is_config, load
from pipeline.config.schema import DataConfig, PretrainConfig, RunConfig, require
from pipeline.config.terminal import align, print_text
from pipeline.data.lanes import TrainLanes
from pipeline.model.bilm import num_layer_parameters
from pipeline.train.pretrain import open_training_data

_RECIPE = "fast"  # the law's
_OWN_KEYS = ("hours", "configs", "seconds", "law")
_HEADS = ("config", "LSTM parameters", "tokens/s", "hours", "tokens", "epochs", "perplexity", "range")


@dataclass(frozen=True)
class Estimate:
    """What a config reaches. arguments: of its `elmo pretrain`. parameters: of its LSTM layers.

    tokens: each way. new_tokens: those of one epoch.
    """

    config: str
    arguments: list[str]
    parameters: int
    tokens_per_second: float
    tokens: int
    new_tokens: int
    prediction: Prediction
    is_extrapolated: bool

    @property
    def hours(self) -> float:
        return self.tokens / self.tokens_per_second / 3600

    @property
    def cells(self) -> list[str]:
        likely, mark = self.prediction, "*" if self.is_extrapolated else ""
        hours = f"{self.hours:.3g}" if self.hours < 100 else f"{self.hours:,.0f}"
        figures = [f"{self.parameters:,}", f"{self.tokens_per_second:,.0f}", hours]
        figures += [millions(self.tokens), f"{self.tokens / self.new_tokens:.2f}"]
        return [self.config, *figures, f"{likely.perplexity:.0f}{mark}", f"{likely.low:.0f} to {likely.high:.0f}"]


@dataclass(frozen=True)
class Comparison:
    """All estimates in the order of the configs, and a sentence for each config that cannot train here."""

    law: Law
    estimates: list[Estimate]
    failures: dict[str, str]

    @property
    def best(self) -> Estimate:
        return min(self.estimates, key=lambda estimate: estimate.prediction.perplexity)

    def __str__(self) -> str:
        table = align([_HEADS, *(estimate.cells for estimate in self.estimates)])
        return "\n".join([table, "", *self._notes(), "", f"Best: {self.best.config}", f"Next: {self.command}"])

    @property
    def command(self) -> str:
        """Return the `elmo pretrain` of the best config."""
        return shlex.join(["elmo", "pretrain", *self.best.arguments])

    def _notes(self) -> list[str]:
        law = self.law
        notes = [f"{config} cannot train: {sentence}" for config, sentence in self.failures.items()]
        if any(estimate.is_extrapolated for estimate in self.estimates):
            notes.append(f"* extrapolated: the law was fitted to runs of {law.extent}")
        if any(estimate.tokens > estimate.new_tokens for estimate in self.estimates):
            notes.append(
                "epochs above 1 repeat the text, and repeated tokens count for less than new ones; more text would help"
            )
        return [
            *notes,
            f"perplexities are those of {law.text} with {law.words:,} words; on another text or vocabulary the figures "
            "differ, but the order of the configs is likely to be the same",
            "hours are of training alone; validation and checkpoints come on top",
        ]


def main(arguments: list[str]) -> int:
    """Print the comparison; return the exit code."""
    print_text(compare(load(BudgetConfig, arguments), arguments))
    return 0


def compare(config: BudgetConfig, arguments: list[str]) -> Comparison:
    """Measure each config and predict what it reaches. arguments: those that the user gave, of which config was made.

    Raises ConfigError without a law, without data, for an unknown config, and if no config can train here.
    """
    law = read_law(config.law)
    require(bool(config.data.path), "data.path= is missing: give a dataset made by `elmo prep`")
    _refuse_own_keys_in_files(arguments, config)
    runs = {name: _run_arguments(name, law, config, arguments) for name in config.configs}
    settings = {name: load(PretrainConfig, of_run) for name, of_run in runs.items()}
    new_tokens = open_training_data(config.data, config.data.path).splits["train"].num_tokens
    lanes = {name: TrainLanes(new_tokens, of.data.lanes, of.data.window) for name, of in settings.items()}
    estimates, failures = [], {}
    for name, of_run in runs.items():
        print_text(f"measuring {name} ...", sys.stderr)
        try:
            rate = measure_speed(of_run, config.seconds)
        except CannotTrainError as error:
            failures[name] = str(error)
            continue
        affordable = max(1, int(3600 * (config.hours or 0) * rate / lanes[name].tokens_per_step))
        asked = settings[name].train.max_steps or affordable
        steps = lanes[name].steps(settings[name].train.epochs, min(affordable, asked))
        parameters, tokens = num_layer_parameters(settings[name].model), steps * lanes[name].tokens_per_step
        prediction = law.predict(parameters, effective_tokens(tokens, new_tokens))
        of_run.append(f"train.max_steps={steps}")
        is_extrapolated = not law.covers(parameters, tokens)
        estimates.append(Estimate(name, of_run, parameters, rate, tokens, new_tokens, prediction, is_extrapolated))
    require(bool(estimates), f"no config can train here; the first: {next(iter(failures.values()), '')}")
    return Comparison(law, estimates, failures)


def _refuse_own_keys_in_files(arguments: list[str], config: BudgetConfig) -> None:
    """Raise ConfigError for a key of `elmo plan` in a YAML file: `elmo pretrain` reads the same file without it."""
    given, usual = {argument.partition("=")[0] for argument in arguments}, BudgetConfig(hours=math.inf)
    for key in _OWN_KEYS:
        value = getattr(config, key)
        is_in_file = key not in given and value != getattr(usual, key)
        require(not is_in_file, f"{key}={value} stands in a YAML file; give {key}= on the command line")


def _run_arguments(name: str, law: Law, config: BudgetConfig, arguments: list[str]) -> list[str]:
    """Return the arguments of `elmo pretrain` for a config: the law's recipe and batch unless the user sets others."""
    require(is_config(name), f"configs={name} is no .yaml file and no config of this package; `elmo -h` lists those")
    given = [argument for argument in arguments if argument.partition("=")[0] not in _OWN_KEYS]
    keys, own, usual = {argument.partition("=")[0] for argument in given}, load(PretrainConfig, [name]), DataConfig()
    added = []
    for key in ("lanes", "window"):
        is_given = f"data.{key}" in keys or getattr(config.data, key) != getattr(usual, key)
        if not is_given and getattr(own.data, key) != getattr(law, key):
            added.append(f"data.{key}={getattr(law, key)}")
    if "run.dir" not in keys and config.run.dir == RunConfig().dir:
        added.append(f"run.dir=runs/{Path(name).stem}")
    return [name, _RECIPE, *given, *added]
