"""The command `elmo`: one function a command. Heavy imports stand inside, so that help and errors are instant."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from data_prep.options import PrepConfig
from pipeline.config.commands import (
    BudgetConfig,
    EmbedConfig,
    EvaluateCommandConfig,
    ExportConfig,
    ImportConfig,
    NeighborsConfig,
    ScoreConfig,
    SlurmConfig,
)
from pipeline.config.cove import COVE_COMMANDS, CoveConfig
from pipeline.config.finetune import FinetuneConfig, in_full
from pipeline.config.help import EXIT_USER_ERROR, Command, describe, overview, run, until_reader_leaves
from pipeline.config.load import is_config, load
from pipeline.config.probes import PROBES, ProbeConfig, probe_schema
from pipeline.config.schema import PretrainConfig, require
from pipeline.config.tasks import TASKS, PredictConfig, StudyConfig, TaskConfig, task_schema
from pipeline.config.terminal import make_warnings_printable, print_text
from pipeline.config.watch import CompareConfig, DashboardConfig, PlotConfig, ReportConfig, StatusConfig, SyncConfig
from pipeline.process import set_defaults_of_libraries
from pipeline.train.cluster import signals
from pipeline.train.cluster.slurm_env import job_shape
from pipeline.train.cluster.torchrun_env import is_torchrun, torchrun_shape
from pipeline.train.outcome import Failed, Outcome
from pipeline.version import __version__


def prep(arguments: list[str]) -> int:
    if arguments and arguments[0] in ("verify", "info"):
        return _inspect(arguments)
    config = load(PrepConfig, arguments)
    require(bool(config.input), "input= is missing: give files, folders or globs, or - for standard input")
    require(bool(config.output), "output= is missing: give the folder of the dataset, or a URL of s3 or gs")
    from data_prep.prepare import make_dataset

    summary = make_dataset(config)
    print_text(summary)
    if not summary.pending:
        print_text(f"\nNext: elmo pretrain small data.path={config.output} run.dir=runs/first")
    return 0


def _inspect(arguments: list[str]) -> int:
    """`elmo prep verify DIR` and `elmo prep info DIR`."""
    require(len(arguments) == 2, f"elmo prep {arguments[0]} takes one dataset folder: elmo prep {arguments[0]} DIR")
    from data_prep.dataset.verify import describe, verify

    if arguments[0] == "info":
        print_text(describe(arguments[1]))
        return 0
    report = verify(arguments[1])
    print_text(report)
    return 1 if report.faults else 0


def pretrain(arguments: list[str]) -> int:
    signals.install()
    config = _training_config(PretrainConfig, [*job_shape(), *arguments])
    from pipeline.train.pretrain import pretrain as train

    return _train("pretrain", lambda: train(config), arguments, config)


def finetune(arguments: list[str]) -> int:
    signals.install()
    from pipeline.finetune.plan import finetune as train
    from pipeline.finetune.plan import plan_finetuning, read_config

    plan, report = plan_finetuning(*read_config([*job_shape(), *arguments]))
    return _train("finetune", lambda: train(plan, report), arguments, plan.config)


def _train(command: str, train: Callable[[], Outcome], arguments: list[str], config: PretrainConfig) -> int:
    from pipeline.train.run_dir.lock import TakenOver
    from pipeline.train.step.collectives import leave
    from pipeline.train.trainer import global_rank

    try:
        outcome = train()
    except (Failed, TakenOver) as error:
        if isinstance(error, Failed) and error.is_everywhere and global_rank(config.train) != 0:
            return int(is_torchrun())  # rank 0 prints the error: with another code, Lightning might kill it before
        print_text(f"elmo {command}: {error}", file=sys.stderr)
        return 1
    leave()
    if outcome.is_rank_zero:
        outcome.print_next_steps(command, arguments, config.data.path)
    return outcome.exit_code


def preflight(arguments: list[str]) -> int:
    signals.install()  # a signal that comes now is meant for the training: the node check records it
    config = _training_config(FinetuneConfig, in_full(arguments))  # a fine-tuning's has all that a pretraining's has
    from pipeline.train.cluster.preflight import preflight as check_node

    check = check_node(config)
    print_text(check)
    return 1 if check.faults else 0


def _training_config(schema: type[PretrainConfig], arguments: list[str]) -> PretrainConfig:
    config = load(schema, arguments)
    require(bool(config.data.path), "data.path= is missing: give a dataset made by `elmo prep`")
    return config


def printing(schema: type[Any], function: str, meaning: str, example: str) -> Command:
    """Return a command that prints what a function, MODULE:NAME, returns of a config.

    The module is imported once the arguments are right. An argument that is neither key=value nor a config file is a
    run folder where the schema has `runs`.
    """

    def run_function(arguments: list[str]) -> int:
        has_runs = any(field.name == "runs" for field in fields(schema))
        config = load(schema, _with_runs(arguments) if has_runs else arguments)
        module, name = function.split(":")
        result = getattr(import_module(module), name)(config)
        if result is not None:  # as of ranks other than 0
            print_text(result)
        return 0

    return Command(run_function, schema, meaning, example)


def embed(arguments: list[str]) -> int:
    config = load(EmbedConfig, arguments)
    from pipeline.apply.embed.embed import embed as write

    result = write(config)
    print_text(result)
    if not result.is_written:
        again = [a for a in arguments if a.partition("=")[0] not in ("task", "tasks", "workers")]
        print_text(f"When all tasks have ended: elmo embed {' '.join(again)}")
    return 0


def task(arguments: list[str]) -> int:
    signals.install()
    name, rest = _kind_and_rest("task", TASKS, arguments)
    config = load(task_schema(name), [*torchrun_shape("training"), *rest], variant=name, variants=TASKS)
    from pipeline.tasks.run import train_task
    from pipeline.train.trainer import global_rank

    result, rank = train_task(name, config), global_rank(config.training)
    if rank == 0:
        print_text(result)
        if result.stopped_by is None:
            print_text(f"Next: elmo predict model={result.run_dir / 'model'} input=FILE output=FILE")
    return result.exit_code(rank)


def probe(arguments: list[str]) -> int:
    name, rest = _kind_and_rest("probe", PROBES, arguments)
    config = load(probe_schema(name), rest)
    from pipeline.tasks.probes.run import run_probe

    print_text(run_probe(config))
    return 0


def _kind_and_rest(command: str, known: Iterable[str], arguments: list[str]) -> tuple[str, list[str]]:
    names = [argument for argument in arguments if "=" not in argument and not is_config(argument)]
    is_one, example = len(names) == 1, f"elmo {command} {next(iter(known))} train=FILE dev=FILE"
    require(is_one, f"elmo {command} takes one {command} ({', '.join(known)}), as in: {example}")
    return names[0], [argument for argument in arguments if argument != names[0]]


def study(arguments: list[str]) -> int:
    signals.install()
    config = load(StudyConfig, arguments)
    from pipeline.tasks.study import study as do

    table = do(config)
    print_text(table)
    return signals.EXIT_PREEMPTED if signals.received() is not None else 1 if table.failed else 0


def status(arguments: list[str]) -> int:
    flags = {"--watch": "watch=true", "--json": "json=true"}
    config = load(StatusConfig, _with_runs([flags.get(argument, argument) for argument in arguments]))
    from pipeline.apply.watch.status import main as show

    return show(config)


def _with_runs(arguments: list[str]) -> list[str]:
    """Return the arguments with runs= before each that is neither key=value nor a config file."""
    return [a if "=" in a or a.endswith((".yaml", ".yml")) else f"runs={a}" for a in arguments]


def demo(arguments: list[str]) -> int:
    folder = [argument for argument in arguments if "=" not in argument]
    require(len(folder) <= 1, f"elmo demo takes one folder to work in, not {len(folder)}: {' '.join(folder)}")
    from pipeline.apply.demo import main

    return main(folder[0] if folder else "runs/demo", [argument for argument in arguments if "=" in argument])


COMMANDS = {
    "prep": Command(prep, PrepConfig, "make a dataset from text (also: prep verify DIR, prep info DIR)",
        "elmo prep input=corpus/*.txt.gz output=data/corpus"),
    "pretrain": Command(pretrain, PretrainConfig, "train the biLM on a dataset, or resume the run in run.dir",
        "elmo pretrain configs/small.yaml data.path=data/corpus run.dir=runs/first"),
    "plan": Command(lambda arguments: int(import_module("pipeline.budget.estimate").main(arguments)), BudgetConfig,
        "show which config fits some hours of training on this machine, and the perplexity to expect",
        "elmo plan data.path=data/corpus hours=8"),
    "finetune": Command(finetune, FinetuneConfig, "adapt a trained biLM to a domain, with perplexity before and after",
        "elmo finetune configs/finetune.yaml from=runs/first data=data/domain mix=data/corpus:0.1"),
    "preflight": Command(preflight, PretrainConfig, "check whether this machine can train: clock, disk, GPUs, data",
        "elmo preflight configs/small.yaml data.path=data/corpus run.dir=runs/first"),
    "evaluate": printing(EvaluateCommandConfig, "pipeline.apply.evaluate:evaluate",
        "compute perplexity of a model on a dataset or text",
        "elmo evaluate checkpoint=runs/first data=data/corpus"),
    "export": printing(ExportConfig, "pipeline.apply.export:export",
        "write a trained model as a folder to share, or in AllenNLP's format",
        "elmo export checkpoint=runs/first output=models/first"),
    "import": printing(ImportConfig, "pipeline.apply.export:import_weights",
        "read a model of bilm-tf, AllenNLP or ELMoForManyLangs into a model folder",
        "elmo import options=options.json weights=weights.hdf5 output=models/original"),
    "embed": Command(embed, EmbedConfig, "write the layers of each word of a text as HDF5, npz, safetensors or Parquet",
        "elmo embed checkpoint=runs/first input=corpus.txt output=corpus.h5"),
    "score": printing(ScoreConfig, "pipeline.apply.score:score",
        "compute log-probabilities of sentences and surprisals of words, both ways",
        "elmo score checkpoint=runs/first input=sentences.txt output=scores.jsonl"),
    "neighbors": printing(NeighborsConfig, "pipeline.apply.embed.neighbors:neighbors",
        "find occurrences of a word in a similar context, by cosine",
        "elmo neighbors checkpoint=runs/first corpus=corpus.txt word=play sentence='a play in acts'"),
    "task": Command(task, TaskConfig, f"train a task with a biLM or without: {', '.join(TASKS)}",
        "elmo task ner train=train.conll dev=dev.conll elmo.checkpoint=runs/first run.dir=runs/ner"),
    "predict": printing(PredictConfig, "pipeline.tasks.predict:predict", "label new text by a trained task",
        "elmo predict model=runs/ner/model input=new.conll output=labelled.conll"),
    "cove": Command(lambda arguments: int(import_module("pipeline.tasks.cove.command").main(arguments)), CoveConfig,
        "train the translation encoder that the paper compares with (also: cove import)",
        "elmo cove train source=train.en target=train.de dev_source=dev.en dev_target=dev.de vectors=glove.txt"),
    "probe": Command(probe, ProbeConfig, f"show what single layers know: {', '.join(PROBES)}",
        "elmo probe pos train=train.conll dev=dev.conll checkpoint=runs/first"),
    "study": Command(study, StudyConfig, "train a grid of task runs, and show one table of them",
        "elmo study configs/studies/tasks.yaml mydata.yaml dir=runs/study processes=2"),
    "report": printing(ReportConfig, "pipeline.tasks.report.report:report",
        "show all results in a folder as one page with tables and figures", "elmo report runs"),
    "status": Command(status, StatusConfig, "show progress, perplexity, checkpoints and restarts of a run",
        "elmo status runs/first --watch"),
    "plot": printing(PlotConfig, "pipeline.apply.watch.plot:main",
        "plot perplexity, speed and gradient norm of runs as PNG or one HTML page",
        "elmo plot runs/first runs/second output=plot.html"),
    "compare": printing(CompareConfig, "pipeline.apply.watch.compare:main",
        "show settings that differ between runs, and their results", "elmo compare runs/first runs/second"),
    "sync": printing(SyncConfig, "pipeline.apply.watch.wandb_sync:sync",
        "upload offline runs to wandb, each as one run", "elmo sync runs/first"),
    "dashboard": printing(DashboardConfig, "pipeline.apply.watch.dashboard:main",
        "make a view with panels for these runs in your wandb project",
        "elmo dashboard project=elmo"),
    "slurm": printing(SlurmConfig, "pipeline.apply.slurm_scripts:copy_scripts",
        "copy the Slurm scripts of this package to DIR/slurm/", "elmo slurm copy=DIR"),
    "demo": Command(demo, type(None), "run all of this on real text in a few minutes, in a folder of your choice",
        "elmo demo runs/demo        (key=value pairs go to elmo pretrain)"),
}  # fmt: skip

# Commands for which a word decides the keys.
VARIANTS: dict[str, Mapping[str, type[Any]]] = {"task": TASKS, "cove": COVE_COMMANDS, "probe": PROBES}


def main(arguments: list[str] | None = None) -> int:
    return until_reader_leaves(lambda: _main(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print_text(overview(COMMANDS))
        return 0
    if arguments[0] == "--version":
        print_text(f"elmo-pipeline {__version__}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print_text(f"elmo: no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return EXIT_USER_ERROR
    if any(a in ("-h", "--help") for a in rest):
        variants = [VARIANTS[name][a] for a in rest if a in VARIANTS.get(name, {})]
        print_text(describe(name, COMMANDS[name]._replace(schema=variants[0]) if variants else COMMANDS[name]))
        return 0
    set_defaults_of_libraries()
    make_warnings_printable()
    return run(name, COMMANDS[name], rest)


if __name__ == "__main__":
    sys.exit(main())
