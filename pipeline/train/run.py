"""A training run from its config to its end: build, start or resume, train, finish."""

import contextlib
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from data_prep.lexicon import UNK_ID, Lexicon
from data_prep.shards import Dataset, open_dataset
from pipeline import __version__, signals
from pipeline.config import ConfigError, PretrainConfig, expand, to_dict
from pipeline.data.datamodule import BiLMDataModule, choose_vocabulary, evaluation_windows
from pipeline.data.lanes import TrainLanes
from pipeline.data.windows import BatchMaker, EvaluationWindows, Vocabulary
from pipeline.model.bilm import BiLM, num_parameters
from pipeline.train.callbacks import Checkpointing, Heartbeat, Metrics, NormsLog, ObeySwitches, Validation
from pipeline.train.checkpoint import CheckpointFolder, Record, load_checkpoint
from pipeline.train.facts import slurm_facts, write_end, write_start
from pipeline.train.job import is_batch_job
from pipeline.train.module import BiLMModule, Diverged
from pipeline.train.norms import StepNorms
from pipeline.train.progress import ProgressBar
from pipeline.train.run_folder import TakenOver, Writer, await_claim, check_identity, claim, run_identity
from pipeline.train.snapshot import restore_snapshot
from pipeline.train.switches import Switches
from pipeline.train.tracking import Tracker
from pipeline.train.trainer import build_trainer, global_rank, set_threads
from pipeline.train.watchdog import Watchdog


@dataclass
class Outcome:
    """How a run ended. saved_step: of its last checkpoint. stopped: on a signal, to be gone on with."""

    run_dir: Path
    step: int
    saved_step: int
    total_steps: int
    is_rank_zero: bool
    stopped: bool = False
    wandb_offline_dir: Path | None = None


@dataclass
class _Plan:
    """What the run is, before any of it is loaded or trained."""

    config: PretrainConfig
    run_dir: Path
    rank: int
    dataset: Dataset
    vocab_size: int
    lanes: TrainLanes
    total_steps: int
    identity: dict[str, Any]
    checkpoints: CheckpointFolder


def pretrain(config: PretrainConfig) -> Outcome:
    """Train until the end, a signal or divergence; goes on from the newest whole checkpoint of run.dir if any.

    Raises ConfigError for settings that cannot be used, Diverged naming the last good checkpoint, TakenOver where a
    later start of the same run writes its folder now.
    """
    plan = _make_plan(config)
    try:
        check_identity(plan.run_dir, plan.identity)
    except ConfigError as error:
        if is_batch_job() and plan.rank == 0:
            write_end(plan.run_dir, "refused", str(error))  # to start again would not help
        raise
    with claim(plan.run_dir, plan.identity, config) if plan.rank == 0 else contextlib.nullcontext() as writer:
        if plan.rank != 0:
            await_claim(plan.run_dir)
        module = _build_module(plan)
        if plan.rank == 0:
            _announce(plan, module)
        if module.step >= plan.total_steps:
            return Outcome(plan.run_dir, module.step, module.step, plan.total_steps, plan.rank == 0)
        is_ours = writer.is_current if writer is not None else lambda: True
        with Watchdog(config.train.start_seconds, config.train.hang_seconds, is_ours) as watchdog:
            return _fit(plan, module, writer, watchdog)


def _make_plan(config: PretrainConfig) -> _Plan:
    dataset = open_dataset(config.data.path, config.data.cache_dir, config.data.staged_at)
    if "train" not in dataset.splits:
        raise ConfigError(f"{config.data.path} has no training split; prepare one with `elmo prep`")
    vocab_size = choose_vocabulary(dataset, config.data)
    lanes = TrainLanes(dataset.splits["train"].num_tokens, config.data.lanes, config.data.window)
    run_dir = expand(config.run.dir)
    return _Plan(
        config, run_dir, global_rank(config.train), dataset, vocab_size, lanes,
        lanes.steps(config.train.epochs, config.train.max_steps), run_identity(config, dataset, vocab_size),
        CheckpointFolder(run_dir / "checkpoints", config.checkpoint.keep_last),
    )  # fmt: skip


def _build_module(plan: _Plan) -> BiLMModule:
    """The model as it was at the newest whole checkpoint, or as the seed makes it."""
    config = plan.config
    set_threads(config.train)
    torch.manual_seed(config.run.seed)
    module = BiLMModule(config, BiLM(config.model, plan.vocab_size), plan.total_steps)
    newest = plan.checkpoints.to_resume_from()
    if newest is not None:
        content = load_checkpoint(plan.checkpoints.path(newest))
        restore_snapshot(module, content, plan.rank, config.train.devices * config.train.nodes)
    return module


def _fit(plan: _Plan, module: BiLMModule, writer: Writer | None, watchdog: Watchdog) -> Outcome:
    config, dataset = plan.config, plan.dataset
    maker = BatchMaker(dataset.lexicon, Vocabulary(plan.vocab_size), config.model.max_characters)
    data = BiLMDataModule(
        dataset, maker, plan.lanes, config.data, config.run.seed, config.lane_groups, module.step, plan.total_steps
    )
    tracker = _start_tracker(plan, module) if plan.rank == 0 else None
    metrics = Metrics(tracker, plan.lanes)
    validation = Validation(_validation_windows(plan, maker), tracker, metrics, watchdog)
    vocabulary = vocabulary_tensors(dataset.lexicon, plan.vocab_size)
    checkpointing = Checkpointing(
        plan.checkpoints, plan.identity, vocabulary, validation, metrics, module.step, writer,
        lambda record: _note_checkpoint(plan, tracker, record),
    )  # fmt: skip
    switches = ObeySwitches(checkpointing, Switches(plan.run_dir if plan.rank == 0 else None))
    progress = ProgressBar(module.step, plan.total_steps, metrics, validation)
    callbacks: list[pl.Callback] = [Heartbeat(watchdog), metrics, validation, checkpointing, switches, progress]
    if tracker is not None and config.train.norms_every_steps is not None:
        module.norms = StepNorms(module.bilm, config.optimizer.clip_norm, config.train.norms_every_steps)
        callbacks.insert(1, NormsLog(module.norms, tracker, metrics))
    trainer = build_trainer(config, tracker and tracker.run, callbacks)
    signals.hold()  # until ObeySwitches finds all ranks up
    try:
        trainer.fit(module, datamodule=data)
    except TakenOver as error:
        if tracker is not None:
            tracker.finish(1)
        raise error
    except SystemExit:  # what Lightning makes of a KeyboardInterrupt
        raise KeyboardInterrupt from None
    except Diverged as error:
        _end(plan, tracker, 1, "diverged", str(error))
        good = plan.checkpoints.newest_good()
        named = f"the last good checkpoint is {plan.checkpoints.path(good)}" if good else "there is no checkpoint yet"
        raise Diverged(f"{error}; {named}") from None
    offline_dir = tracker.offline_dir if tracker is not None else None
    how, why = ("stopped", switches.stopped_by) if switches.stopped_by else ("finished", "")
    _end(plan, tracker, 0, how, f"step {module.step} of {plan.total_steps}", why)
    return Outcome(
        plan.run_dir, module.step, checkpointing.saved_step, plan.total_steps, trainer.is_global_zero, how == "stopped",
        offline_dir,
    )  # fmt: skip


def _validation_windows(plan: _Plan, maker: BatchMaker) -> EvaluationWindows | None:
    heldout = plan.dataset.splits.get("heldout")
    if heldout is None or heldout.num_tokens == 0:
        return None
    return evaluation_windows(heldout, maker, plan.config.evaluate, plan.config.train.validate_tokens)


def _announce(plan: _Plan, module: BiLMModule) -> None:
    config, lanes, sizes = plan.config, plan.lanes, num_parameters(module.bilm)
    start = f"resumed at step {module.step:,}" if module.step else "new"
    lines = [
        f"run      {plan.run_dir}  ({start})",
        f"data     {lanes.num_tokens:,} training tokens each way, {lanes.windows_per_epoch:,} steps an epoch",
        f"model    {sizes['bilm']:,} parameters + softmax {sizes['softmax']:,} ({plan.vocab_size:,} words)",
        f"plan     {plan.total_steps:,} steps of {config.data.lanes} lanes x {config.data.window} tokens = "
        f"{plan.total_steps * lanes.tokens_per_step:,} tokens, {plan.total_steps / lanes.windows_per_epoch:.2f} epochs",
    ]
    if module.step >= plan.total_steps:
        lines.append("done     that step is the last: nothing to do; raise train.epochs to go on")
    print("\n".join(lines), file=sys.stderr)


def _start_tracker(plan: _Plan, module: BiLMModule) -> Tracker:
    sizes = num_parameters(module.bilm)
    facts = {
        "dataset_fingerprint": plan.dataset.fingerprint,
        "git_revision": git_revision(),
        "version": __version__,
        "parameters": sizes["bilm"],
        "softmax_parameters": sizes["softmax"],
        "total_steps": plan.total_steps,
        "tokens_per_step": plan.lanes.tokens_per_step,
        "tokens_an_epoch": plan.lanes.num_tokens,
    }
    write_start(plan.run_dir, module.step, {"data": plan.config.data.path} | facts)
    name = plan.config.run.name or plan.run_dir.name
    tracker = Tracker(plan.run_dir, name, plan.config.wandb, to_dict(plan.config) | facts | {"slurm": slurm_facts()})
    about = {"fingerprint": plan.dataset.fingerprint, "tokens": plan.lanes.num_tokens}
    tracker.reference("dataset", "dataset", plan.config.data.path, about, ["latest"])
    return tracker


def _note_checkpoint(plan: _Plan, tracker: Tracker | None, record: Record) -> None:
    if tracker is not None:
        path = str(plan.checkpoints.path(record))
        tracker.reference("model", "checkpoint", path, asdict(record), ["latest", f"step-{record.step}"])


def git_revision() -> str | None:
    """Of the code that runs, None outside a clone."""
    root = Path(__file__).resolve().parents[2]
    if (root / "REVISION").exists():  # code that a job was submitted with
        return (root / "REVISION").read_text().strip()
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _end(plan: _Plan, tracker: Tracker | None, exit_code: int, how: str, text: str, why: str = "") -> None:
    """Rank 0 tells the folder, wandb and the user's mailbox how it ended."""
    if tracker is not None:
        write_end(plan.run_dir, how, text, why)
        level = {"finished": "INFO", "stopped": "WARN"}.get(how, "ERROR")
        tracker.alert(f"pretraining {how}", f"{text} ({why})" if why else text, level)
        tracker.finish(exit_code)


def vocabulary_tensors(lexicon: Lexicon, size: int) -> dict[str, Tensor]:
    """The target words of a run as tensors that a checkpoint can hold.

    words: UTF-8, joined by newlines. counts (size,): in training, those of all other words under <UNK>.
    """
    words = "\n".join(lexicon.words(0, size)).encode()
    assert len(words) == int(lexicon.offsets[size]) + size - 1
    counts = np.array(lexicon.counts[:size])
    counts[UNK_ID] += int(lexicon.counts[size:].sum())
    return {
        "words": torch.from_numpy(np.frombuffer(words, dtype=np.uint8).copy()),
        "counts": torch.from_numpy(counts),
    }
