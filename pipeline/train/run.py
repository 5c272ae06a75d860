"""Run a plan, of pretraining or fine-tuning: build the model, start or resume, train, finish."""

import contextlib
import logging
import math
import sys
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch

from data_prep.dataset.files import DataError, UnreachableError
from pipeline.config.schema import ConfigError, to_dict
from pipeline.config.terminal import print_text
from pipeline.data.datamodule import BiLMDataModule, is_killed_worker
from pipeline.data.vocabulary import shares_of, words_of
from pipeline.model.backend.matmul import HAS_BF16
from pipeline.model.bilm import num_parameters
from pipeline.model.language_model import LanguageModel
from pipeline.train.auto import resolve_auto
from pipeline.train.callbacks import Checkpointing, HandleRequests, Heartbeat, Metrics, Validation
from pipeline.train.cluster import signals
from pipeline.train.cluster.slurm_env import is_batch_job
from pipeline.train.cluster.stop_requests import STOP_FILE, StopRequests
from pipeline.train.cluster.watchdog import Watchdog
from pipeline.train.fast_path.callback import FastPath
from pipeline.train.outcome import DataUnreachable, Failed, LoaderKilled, Outcome
from pipeline.train.plan import Plan
from pipeline.train.progress import ProgressBar
from pipeline.train.run_dir.checkpoint import Record
from pipeline.train.run_dir.copies import Copies
from pipeline.train.run_dir.lock import (
    TakenOver,
    Writer,
    check_identity,
    choose_checkpoint,
    claim,
    fetch_from,
    record_run,
)
from pipeline.train.run_dir.records import git_revision, read_restarts, slurm_facts, write_end, write_start
from pipeline.train.run_dir.snapshot import load_snapshot, restore_snapshot
from pipeline.train.run_dir.tracking import Tracker
from pipeline.train.step.collectives import RanksDiffer
from pipeline.train.step.finite_check import Diverged
from pipeline.train.step.module import BiLMModule
from pipeline.train.step.norms import StepNorms
from pipeline.train.step.state import TrainingState
from pipeline.train.trainer import build_trainer, end_with_launcher, keep_freed_memory, launching_ranks, set_threads
from pipeline.version import __version__

log = logging.getLogger(__name__)

_STOPPED_UPLOAD_SECONDS = 60.0  # after a signal: Slurm kills a job three minutes after it has sent SIGUSR1
_KINDS = {"pretrain": "pretraining", "finetune": "fine-tuning"}


def run(plan: Plan) -> Outcome:
    """Train until the end, a signal or divergence, from the newest whole checkpoint of run.dir if there is one.

    Raises ConfigError for settings that cannot be used, Diverged with the name of the last good checkpoint, TakenOver
    if a later start of the same run writes its folder now, LoaderKilled, RanksDiffer, DataUnreachable.
    """
    end_with_launcher()
    try:
        return _run(plan)
    except UnreachableError as error:  # of the mirror, at the start
        raise DataUnreachable(str(error)) from None
    finally:
        signals.forget()  # a later training in this process must not stop because of them
        signals.release()


def _run(plan: Plan) -> Outcome:
    try:
        if plan.mirror is not None:
            fetch_from(plan.mirror, plan.identity)
        check_identity(plan.run_dir, plan.identity)
    except ConfigError as error:
        if is_batch_job() and plan.rank == 0:
            write_end(plan.run_dir, "refused", str(error))  # a restart would not help
        raise
    with claim(plan.run_dir) if plan.rank == 0 else contextlib.nullcontext() as writer:
        checkpoint = choose_checkpoint(plan.checkpoints, plan.run_dir, writer)
        module, is_resumed = _build_module(plan, checkpoint), checkpoint is not None
        if plan.rank == 0:
            record_run(plan.run_dir, plan.identity, plan.config)
            _announce(plan, module, is_resumed)
        copies = _start_copies(plan, writer)
        step = module.state.step
        if module.state.is_over:
            if plan.rank == 0:
                write_end(plan.run_dir, "finished", _progress_text(module))  # a kill may have prevented it before
            uncopied = copies.finish() if copies is not None else ""
            return Outcome(plan.run_dir, step, step, plan.total_steps, plan.rank == 0, uncopied=uncopied)
        is_ours = writer.is_current if writer is not None else lambda: True
        limits = plan.config.train.start_seconds, plan.config.train.hang_seconds
        with Watchdog(*limits, is_ours, lambda: write_end(plan.run_dir, "hung", _progress_text(module))) as watchdog:
            return _train(plan, module, is_resumed, writer, copies, watchdog)


def _start_copies(plan: Plan, writer: Writer | None) -> Copies | None:
    """Return what uploads checkpoints, None without checkpoint.mirror and on ranks other than 0."""
    if plan.mirror is None or writer is None:
        return None
    plan.mirror.write_run()
    return Copies(plan.mirror, writer.check)


def _build_module(plan: Plan, checkpoint: Record | None) -> BiLMModule:
    """Return the module at the checkpoint, or at the start of the run."""
    config, path = plan.config, plan.checkpoints.path(checkpoint) if checkpoint is not None else None
    content = load_snapshot(path, plan.identity) if path is not None else None
    plan.auto = resolve_auto(config, plan.device, plan.total_steps, content and content["elmo"]["config"])
    set_threads(config.train)
    if plan.device == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.run.seed)
    bilm = LanguageModel(config.model, plan.vocab_size)
    if config.softmax.affixes:
        bilm.softmax.share_rows(words_of(plan.vocabulary()))
    plan.freeze.prepare(bilm)
    state = TrainingState(plan.total_steps, config.train.patience, [None] * config.lane_groups)
    every, norms = config.train.norms_every_steps, None
    if plan.rank == 0 and every is not None:
        norms = StepNorms(bilm, config.optimizer.clip_norm, every)
    stop_requests = StopRequests(plan.run_dir if plan.rank == 0 else None)
    module = BiLMModule(config, bilm, state, plan.freeze, stop_requests, norms)
    if path is not None and content is not None:
        restore_snapshot(module, path, content, plan.rank, config.train.devices * config.train.nodes)
    else:
        if config.softmax.init == "unigram":
            bilm.softmax.start_as_unigrams(torch.from_numpy(shares_of(plan.vocabulary()["counts"].numpy())))
        if plan.start is not None:
            plan.start(bilm)
    return module


def _train(
    plan: Plan, module: BiLMModule, is_resumed: bool, writer: Writer | None, copies: Copies | None, watchdog: Watchdog
) -> Outcome:
    tracker = _start_tracker(plan, module) if plan.rank == 0 else None
    saved_step, stopped_by = _fit(plan, module, is_resumed, tracker, writer, copies, watchdog)
    if plan.rank == 0 and stopped_by:  # first, as a job may be killed soon after its signal
        write_end(plan.run_dir, "stopped", _progress_text(module), stopped_by)
    seconds = _STOPPED_UPLOAD_SECONDS if stopped_by and stopped_by != STOP_FILE else math.inf
    uncopied = copies.finish(watchdog.beat, seconds) if copies is not None else ""
    offline_dir, step = tracker.offline_dir if tracker is not None else None, module.state.step
    _end(plan, tracker, 0, "stopped" if stopped_by else "finished", _progress_text(module), stopped_by)
    is_zero = plan.rank == 0
    return Outcome(plan.run_dir, step, saved_step, plan.total_steps, is_zero, stopped_by, offline_dir, uncopied)


def _fit(
    plan: Plan,
    module: BiLMModule,
    is_resumed: bool,
    tracker: Tracker | None,
    writer: Writer | None,
    copies: Copies | None,
    watchdog: Watchdog,
) -> tuple[int, str]:
    """Return the step of the last checkpoint and the reason of a stop before the end, "" if there was none."""
    config, step = plan.config, module.state.step
    data = BiLMDataModule(plan.windows, config.data, config.lane_groups, range(step, plan.total_steps), plan.prepare)
    metrics = Metrics(tracker, plan.corpus.lanes)
    is_start = plan.start is not None and not is_resumed
    validation = Validation(plan, tracker, metrics, watchdog, is_start)
    checkpointing = Checkpointing(plan, writer, tracker, validation, metrics, copies)
    requests = HandleRequests(plan, checkpointing)
    progress = ProgressBar(step, plan.total_steps, metrics, validation, plan.command)
    path = FastPath(plan.device, plan.rank, config.train.devices)
    callbacks: list[pl.Callback] = [path, Heartbeat(watchdog), metrics, validation, checkpointing, requests, progress]
    trainer = build_trainer(config, tracker and tracker.run, callbacks)
    signals.hold()  # until HandleRequests sees that all ranks are up
    try:
        with path, launching_ranks():
            trainer.fit(module, datamodule=data)
    except TakenOver:
        if tracker is not None:
            tracker.finish(1)
        raise
    except Exception as error:
        _fail(plan, tracker, module.state.step, error)
    return checkpointing.saved_step, requests.stopped_by


def _fail(plan: Plan, tracker: Tracker | None, step: int, error: Exception) -> NoReturn:
    """Record in the folder and in wandb what ended the training, and raise the error with the last good checkpoint."""
    if is_killed_worker(error):
        workers = plan.config.data.workers
        error = LoaderKilled(
            f"a loader process of rank {plan.rank} was killed after step {step:,}, perhaps because memory ran out; run "
            f"the same command again to resume; if memory ran out, with more of it or less than data.workers={workers}"
        )
    if isinstance(error, UnreachableError):
        error = DataUnreachable(str(error))
    how = {Diverged: "diverged", RanksDiffer: "refused", DataError: "refused", ConfigError: "refused"}.get(type(error))
    if how is not None:
        _end(plan, tracker, 1, how, str(error))
    elif tracker is not None:
        tracker.finish(1)
    named = _last_good(plan)
    if isinstance(error, Failed | DataError | ConfigError):
        raise type(error)(f"{error}; {named}") from None
    log.error("training ended after step %s with an error of type %s; %s", f"{step:,}", type(error).__name__, named)
    raise error


def _last_good(plan: Plan) -> str:
    try:
        good = plan.checkpoints.newest_good()
    except OSError as error:
        return f"checkpoints cannot be read now ({error})"
    return f"the last good checkpoint is {plan.checkpoints.path(good)}" if good else "there is no checkpoint yet"


def _progress_text(module: BiLMModule) -> str:
    state = module.state
    early = state.stopped_early and state.step < state.total_steps
    why = ", early: held-out perplexity did not fall any more" if early else ""
    return f"step {state.step:,} of {state.total_steps:,}{why}"


def _announce(plan: Plan, module: BiLMModule, is_resumed: bool) -> None:
    config, lanes, sizes = plan.config, plan.corpus.lanes, num_parameters(module.bilm)
    start = f"resumed at step {module.state.step:,}" if is_resumed else "new"
    lines = [
        f"run      {plan.run_dir}  ({start})",
        f"data     {lanes.num_tokens:,} training tokens each way, {lanes.windows_per_epoch:,} steps an epoch",
        f"model    {sizes['bilm']:,} parameters + softmax {sizes['softmax']:,} ({plan.vocab_size:,} words)",
        f"plan     {plan.total_steps:,} steps of {config.data.lanes} lanes x {config.data.window} tokens = "
        f"{plan.total_steps * config.data.tokens_per_step:,} tokens, "
        f"{plan.total_steps / lanes.windows_per_epoch:.2f} epochs",
        *(f"auto     {name}={value}" for name, value in plan.auto.items()),
        *plan.notes,
    ]
    if config.train.precision == "bf16-mixed" and plan.device == "cpu" and not HAS_BF16:
        lines.append("slow     this processor has no instructions for bfloat16: train.precision=32-true is faster here")
    if module.state.step >= plan.total_steps:
        lines.append("done     that step is the last: nothing to do; raise train.epochs to continue")
    elif module.state.is_over:
        lines.append(
            "done     held-out perplexity did not fall any more: nothing to do; raise train.patience to continue"
        )
    print_text("\n".join(lines), sys.stderr)


def _start_tracker(plan: Plan, module: BiLMModule) -> Tracker:
    sizes = num_parameters(module.bilm)
    facts = {
        "dataset_fingerprint": plan.corpus.dataset.fingerprint,
        "git_revision": git_revision(),
        "version": __version__,
        "parameters": sizes["bilm"],
        "softmax_parameters": sizes["softmax"],
        "total_steps": plan.total_steps,
        "tokens_per_step": plan.config.data.tokens_per_step,
        "tokens_an_epoch": plan.corpus.lanes.num_tokens,
        "auto": plan.auto,
    }
    write_start(plan.run_dir, module.state.step, {"command": plan.command, "data": plan.config.data.path} | facts)
    tracker = open_tracker(plan, to_dict(plan.config) | facts | {"slurm": slurm_facts()})
    if restarts := read_restarts(plan.run_dir):  # a hang, a crash or a lost node is reported by the next start
        reason = restarts[-1].get("reason", "reason not known")
        tracker.alert("training restarted", f"restart {len(restarts)}: {reason}", "WARN")
    about = {"fingerprint": plan.corpus.dataset.fingerprint, "tokens": plan.corpus.lanes.num_tokens}
    tracker.reference("dataset", "dataset", plan.config.data.path, about, ["latest"])
    return tracker


def open_tracker(plan: Plan, facts: dict[str, Any]) -> Tracker:
    """Return a tracker that appends to the plan's wandb run. facts: to add to the run's config."""
    return Tracker(plan.run_dir, plan.config.run.name, plan.config.wandb, facts, plan.group)


def _end(plan: Plan, tracker: Tracker | None, exit_code: int, how: str, text: str, why: str = "") -> None:
    """Record on rank 0 how the run ended: in end.json, in wandb and as an alert."""
    if tracker is not None:
        write_end(plan.run_dir, how, text, why)
        level = {"finished": "INFO", "stopped": "WARN"}.get(how, "ERROR")
        tracker.alert(f"{_KINDS[plan.command]} {how}", f"{text} ({why})" if why else text, level)
        tracker.finish(exit_code)
