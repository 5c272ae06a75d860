"""Build a training run from its config, start or resume it, and end it well."""

import fcntl
import json
import logging
import os
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments import SLURMEnvironment
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor

from data_prep.files import write_bytes, write_json
from data_prep.lexicon import UNK_ID, Lexicon
from data_prep.shards import Dataset, open_dataset
from pipeline import __version__
from pipeline.config import ConfigError, PretrainConfig, expand, to_dict
from pipeline.data.datamodule import BiLMDataModule, choose_vocabulary, evaluation_windows
from pipeline.data.lanes import TrainLanes
from pipeline.data.windows import BatchMaker, Vocabulary
from pipeline.model.bilm import BiLM, num_parameters
from pipeline.train.callbacks import Checkpointing, Metrics, ProgressBar, StopOnSignal, Validation
from pipeline.train.checkpoint import CheckpointFolder, load_checkpoint
from pipeline.train.module import BiLMModule, Diverged
from pipeline.train.snapshot import restore_snapshot
from pipeline.train.tracking import Tracker

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """How a run ended. stopped: on a signal, with a checkpoint, to be gone on with."""

    run_dir: Path
    step: int
    total_steps: int
    stopped: bool
    is_rank_zero: bool
    perplexity: float | None
    wandb_offline_dir: Path | None


def pretrain(config: PretrainConfig) -> Outcome:
    """Train until the end, a signal or divergence; goes on from the newest whole checkpoint of run.dir if any.

    Raises ConfigError for settings that cannot be used, Diverged naming the last good checkpoint.
    """
    run_dir = expand(config.run.dir)
    dataset = open_dataset(config.data.path, cache_dir=config.data.cache_dir)
    if "train" not in dataset.splits:
        raise ConfigError(f"{config.data.path} has no training split; prepare one with `elmo prep`")
    vocab_size = choose_vocabulary(dataset, config.data)
    lanes = TrainLanes(dataset.splits["train"].num_tokens, config.data.lanes, config.data.window)
    identity = run_identity(config, dataset, vocab_size)
    checkpoints = CheckpointFolder(run_dir / "checkpoints", config.checkpoint.keep_last)
    lock = _claim(run_dir, identity)
    try:
        return _train(config, run_dir, dataset, vocab_size, lanes, identity, checkpoints)
    finally:
        if lock is not None:
            lock.close()


def _train(
    config: PretrainConfig, run_dir: Path, dataset: Dataset, vocab_size: int, lanes: TrainLanes,
    identity: dict[str, Any], checkpoints: CheckpointFolder,
) -> Outcome:  # fmt: skip
    total_steps = lanes.steps(config.train.epochs, config.train.max_steps)
    _set_threads(config)
    torch.manual_seed(config.run.seed)
    module = BiLMModule(config, BiLM(config.model, vocab_size), total_steps)
    newest = checkpoints.newest_good()
    if newest is not None:
        content = load_checkpoint(checkpoints.path(newest))
        restore_snapshot(module, content, _rank(config), config.train.devices * config.train.nodes)
    _announce(config, run_dir, lanes, module, total_steps)
    if module.step >= total_steps:
        return Outcome(run_dir, module.step, total_steps, False, rank_zero_only.rank == 0, newest and newest.val_perplexity, None)
    tracker = _start_tracker(config, run_dir, lanes, module, identity) if rank_zero_only.rank == 0 else None
    maker = BatchMaker(dataset.lexicon, Vocabulary(vocab_size), config.model.max_characters)
    data = BiLMDataModule(
        dataset, maker, lanes, config.data, config.run.seed, config.lane_groups, module.step, total_steps
    )
    metrics = Metrics(tracker, lanes)
    heldout = dataset.splits.get("heldout")
    windows = heldout and heldout.num_tokens and evaluation_windows(
        heldout, maker, config.evaluate, config.train.validate_tokens
    )  # fmt: skip
    validation = Validation(windows or None, tracker, metrics)
    checkpointing = Checkpointing(checkpoints, identity, vocabulary_tensors(dataset.lexicon, vocab_size), validation, metrics)
    stop = StopOnSignal(checkpointing)
    progress = ProgressBar(module.step, total_steps, metrics, validation)
    trainer = build_trainer(config, tracker, [metrics, validation, checkpointing, stop, progress])
    try:
        trainer.fit(module, datamodule=data)
    except Diverged as error:
        _end(tracker, 1, "diverged", str(error))
        good = checkpoints.newest_good()
        raise Diverged(f"{error}; the last good checkpoint is {good and checkpoints.path(good)}") from None
    offline = tracker and tracker.offline_dir
    _end(tracker, 0, "stopped on a signal" if stop.stopped else "finished", f"step {module.step} of {total_steps}")
    perplexity = validation.last[1].both if validation.last else None
    return Outcome(run_dir, module.step, total_steps, stop.stopped, trainer.is_global_zero, perplexity, offline)


def run_identity(config: PretrainConfig, dataset: Dataset, vocab_size: int) -> dict[str, Any]:
    """What a resumed run must share with its past; everything else may change from one start to the next."""
    settings = to_dict(config)
    return {
        "dataset": dataset.fingerprint,
        "data.vocab_size": vocab_size,
        "data.lanes": config.data.lanes,
        "data.window": config.data.window,
        "run.seed": config.run.seed,
        "optimizer.name": config.optimizer.name,
        **{f"{part}.{key}": value for part in ("model", "softmax") for key, value in settings[part].items()},
    }


def _claim(run_dir: Path, identity: dict[str, Any]) -> IO[str] | None:
    """Refuse a folder of another run, or one that is being written; record whose it is. The lock, on rank 0."""
    path = run_dir / "run.json"
    if path.exists():
        before = json.loads(path.read_text())["identity"]
        names = sorted(k for k in before.keys() | identity.keys() if before.get(k) != identity.get(k))
        if names:
            changes = "; ".join(f"{n}: {_short(before.get(n))} there, {_short(identity.get(n))} now" for n in names)
            raise ConfigError(
                f"run.dir={run_dir} holds a run that cannot be gone on with ({changes}); "
                "give the old values, or another run.dir for another run"
            )
    if rank_zero_only.rank != 0:
        return None
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = (run_dir / "lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigError(f"run.dir={run_dir} is being trained by another process; wait for it or stop it") from None
    if not path.exists():
        write_json(path, {"identity": identity, "version": __version__})
    return lock


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:16] + "…"


def _rank(config: PretrainConfig) -> int:
    """The global rank before Lightning has set anything up: from the launcher's environment."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    if SLURMEnvironment.detect():
        return SLURMEnvironment().global_rank()
    return int(os.environ.get("NODE_RANK", 0)) * config.train.devices + int(os.environ.get("LOCAL_RANK", 0))


def _set_threads(config: PretrainConfig) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(config.train.threads or max(1, cores // config.train.devices))


def _announce(
    config: PretrainConfig, run_dir: Path, lanes: TrainLanes, module: BiLMModule, total_steps: int
) -> None:
    if rank_zero_only.rank != 0:
        return
    sizes = num_parameters(module.bilm)
    say = lambda text: print(text, file=sys.stderr)  # noqa: E731
    say(f"run      {run_dir}  ({'resumed at step ' + format(module.step, ',') if module.step else 'new'})")
    say(f"data     {lanes.num_tokens:,} training tokens each way, {lanes.windows_per_epoch:,} steps an epoch")
    say(f"model    {sizes['bilm']:,} parameters + softmax {sizes['softmax']:,} ({module.bilm.softmax.vocab_size:,} words)")
    say(
        f"plan     {total_steps:,} steps of {config.data.lanes} lanes x {config.data.window} tokens = "
        f"{total_steps * lanes.tokens_per_step:,} tokens, {total_steps / lanes.windows_per_epoch:.2f} epochs"
    )
    if module.step >= total_steps:
        say(f"nothing to do: the run is at step {module.step:,} of {total_steps:,}; raise train.epochs to go on")


def _start_tracker(
    config: PretrainConfig, run_dir: Path, lanes: TrainLanes, module: BiLMModule, identity: dict[str, Any]
) -> Tracker:
    from omegaconf import OmegaConf

    write_bytes(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(to_dict(config))).encode())
    sizes = num_parameters(module.bilm)
    facts = to_dict(config) | {
        "dataset_fingerprint": identity["dataset"], "git_revision": _git_revision(), "version": __version__,
        "parameters": sizes["bilm"], "softmax_parameters": sizes["softmax"], "total_steps": module.total_steps,
        "tokens_an_epoch": lanes.num_tokens,
    }  # fmt: skip
    return Tracker(run_dir, config.run.name or run_dir.name, config.wandb, facts)


def _git_revision() -> str | None:
    root = Path(__file__).resolve().parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def build_trainer(config: PretrainConfig, tracker: Tracker | None, callbacks: list[pl.Callback]) -> pl.Trainer:
    """A Trainer that only drives: data order, checkpoints, signals and validation are this project's own."""
    _quieten_lightning()
    ranks = config.train.devices * config.train.nodes
    trainer = pl.Trainer(
        accelerator=config.train.accelerator, devices=config.train.devices, num_nodes=config.train.nodes,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if ranks > 1 else "auto",
        precision=config.train.precision, max_epochs=1, accumulate_grad_batches=config.lane_groups,
        limit_val_batches=0, num_sanity_val_steps=0, use_distributed_sampler=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks, log_every_n_steps=1 << 30,
        logger=WandbLogger(experiment=tracker.run) if tracker is not None and tracker.run is not None else False,
        plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
    )  # fmt: skip
    _leave_signals_to_us(trainer)
    return trainer


def _quieten_lightning() -> None:
    """Its advice is about the parts of it that this project does not use."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in ("You have overridden `transfer_batch_to_device`", "The number of training batches",
                    "The 'train_dataloader' does not have many workers", ".*isinstance.treespec, LeafSpec.*"):  # fmt: skip
        warnings.filterwarnings("ignore", message=message)


class _NoSignalHandlers:
    """Lightning's SIGTERM handler talks to other ranks from inside the handler and can hang them all."""

    received_sigterm = False

    def register_signal_handlers(self) -> None:
        pass

    def teardown(self) -> None:
        pass


def _leave_signals_to_us(trainer: pl.Trainer) -> None:
    trainer._signal_connector = _NoSignalHandlers()  # type: ignore[assignment]
    # Lightning would broadcast its own flag before every batch: one more synchronisation of all ranks a step.
    trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def _end(tracker: Tracker | None, exit_code: int, title: str, text: str) -> None:
    if tracker is not None:
        tracker.alert(f"pretraining {title}", text)
        tracker.finish(exit_code)


def vocabulary_tensors(lexicon: Lexicon, size: int) -> dict[str, Tensor]:
    """The target words of a run as tensors that a checkpoint can hold: words joined by newlines, and training counts, with
    those of all other words under <UNK>."""
    end = int(lexicon.offsets[size])
    words = "\n".join(lexicon.words(0, size)).encode()
    assert len(words) == end + size - 1
    counts = np.array(lexicon.counts[:size])
    counts[UNK_ID] += int(lexicon.counts[size:].sum())
    return {
        "words": torch.from_numpy(np.frombuffer(words, dtype=np.uint8).copy()),
        "counts": torch.from_numpy(counts),
    }
