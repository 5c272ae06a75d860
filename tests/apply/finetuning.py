"""Fine-tune the tiny trained biLM on a tiny domain, which shares some of its words."""

from pathlib import Path
from typing import Any

from data_prep.prepare import prepare
from pipeline.finetune.plan import finetune, plan_finetuning, read_config
from pipeline.train.outcome import Outcome
from pipeline.train.plan import Plan
from tests import corpora, processes
from tests.train import runs

SETTINGS = [
    "data.lanes=8", "data.window=10", "data.vocab_min_count=1", "data.workers=0", "evaluate.lanes=8",
    "train.threads=1", "train.accelerator=cpu", "train.log_every_steps=1", "train.epochs=1", "optimizer.lr=0.1",
    "wandb.mode=disabled", "train.validate_every_steps=20", "checkpoint.every_steps=20",
]  # fmt: skip


def domain_sentences(number: int, seed: int) -> list[str]:
    """Return sentences of the general text in which about a third of the words are replaced by unknown ones."""
    sentences = corpora.zipf_sentences(number, seed, types=900)
    return [" ".join(f"dömain{w[1:]}" if w.endswith(("1", "4", "7")) else w for w in s.split()) for s in sentences]


def make_domain(folder: Path) -> Path:
    """Prepare about 3,600 training tokens, 45 steps an epoch with SETTINGS, and 700 held-out tokens."""
    train = corpora.write_text(folder / "train.txt", domain_sentences(300, seed=11))
    heldout = corpora.write_text(folder / "heldout.txt", domain_sentences(60, seed=12))
    prepare(
        [str(train)], str(folder / "dataset"), heldout_inputs=[str(heldout)], workers=1, show_progress=False,
        shard_tokens=2000, chunk_tokens=300,
    )  # fmt: skip
    return folder / "dataset"


def arguments(source: Path | str, domain: Path, run_dir: Path, *pairs: str) -> list[str]:
    return [f"from={source}", f"data={domain}", f"run.dir={run_dir}", *SETTINGS, *pairs]


def plan_of(source: Path | str, domain: Path, run_dir: Path, *pairs: str) -> Plan:
    plan, _ = plan_finetuning(*read_config(arguments(source, domain, run_dir, *pairs)))
    return plan


def finetune_here(source: Path | str, domain: Path, run_dir: Path, *pairs: str) -> Outcome:
    """Run `elmo finetune` in this process."""
    return finetune(*plan_finetuning(*read_config(arguments(source, domain, run_dir, *pairs))))


def start(source: Path, domain: Path, run_dir: Path, *pairs: str) -> processes.Process:
    """Start `elmo finetune`."""
    log = run_dir.parent / f"{run_dir.name}.log"
    forked = not any(pair.startswith("train.devices=") for pair in pairs)
    return processes.Process("finetune", *arguments(source, domain, run_dir, *pairs), log=log, forked=forked)


def at_step(run_dir: Path, step: int) -> dict[str, Any]:
    """Return the content of the checkpoint of a step."""
    return runs.load_checkpoint(run_dir / "checkpoints" / f"step-{step:08d}.ckpt")
