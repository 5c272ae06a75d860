"""`elmo finetune`: continue to train a biLM, on the text of a domain (Peters et al. 2018, section 3.4).

A fine-tuning is a run like a pretraining (pipeline/train/run.py) with another plan: other target words, other initial
weights, other text. Its first checkpoint is of step 0; after it the run does not need its source any more.
"""

from typing import Any

import numpy as np
import torch

from data_prep.dataset.locations import local_path
from data_prep.dataset.shards import Dataset
from pipeline.apply.load import Trained, load_trained
from pipeline.config.finetune import FinetuneConfig, FinetuneSection, in_full
from pipeline.config.load import load
from pipeline.config.schema import ConfigError, DataConfig, SoftmaxConfig, require, to_dict
from pipeline.config.terminal import print_text
from pipeline.data.combined_windows import general_lanes
from pipeline.data.lanes import TrainLanes
from pipeline.data.vocabulary import (
    WeightedLexicon,
    choose_vocabulary,
    counts_of,
    extended,
    rows_in,
    shares_of,
    tensors_of,
    vocabulary_of,
)
from pipeline.finetune.report import FinetuneReport
from pipeline.finetune.softmax_transfer import estimate_rows, transfer_rows
from pipeline.model.dictionary import dictionary_of
from pipeline.model.language_model import LanguageModel
from pipeline.train.outcome import Outcome
from pipeline.train.plan import Corpus, Plan, checkpoints_of, mirror_of
from pipeline.train.pretrain import open_training_data
from pipeline.train.run import open_tracker, run
from pipeline.train.step.freeze import Freeze
from pipeline.train.trainer import global_rank

_Read = tuple[Dataset, TrainLanes]
_WARMUP_SHARE = 0.1  # of all steps, for a new softmax


def read_config(arguments: list[str]) -> tuple[FinetuneConfig, Trained, bool]:
    """Return the options, the model to start from, and whether that model is a checkpoint of this run.

    The model's options are those of the source; so are the options of the softmax and data.cold_start_share, unless
    they are given. Raises ConfigError.
    """
    arguments = in_full(arguments)
    given = load(FinetuneConfig, arguments)
    require(bool(given.finetune.source), "from= is missing: give a checkpoint, a run's folder or a model to start from")
    require(bool(given.data.path), "data= is missing: give the domain's dataset, made by `elmo prep`")
    mirror = mirror_of(given)
    if mirror is not None:  # `run` checks that it is this run's
        mirror.fetch()
    own = _newest(given)
    trained = own or load_trained(given.finetune.source)
    require(
        dictionary_of(trained.bilm.config) is None,
        f"from={given.finetune.source} has a dictionary of characters; only models over UTF-8 bytes can be trained",
    )
    under: dict[str, Any] = {"model": to_dict(trained.bilm.config)}
    if trained.has_config:
        under["softmax"] = to_dict(trained.section("softmax", SoftmaxConfig))
        under["data"] = {"cold_start_share": trained.section("data", DataConfig).cold_start_share}
    if own is not None and "finetune" in (own.settings or {}):
        under["finetune"] = {"warmup_steps": own.section("finetune", FinetuneSection).warmup_steps}
    config = load(FinetuneConfig, arguments, under)
    here, there = to_dict(config.model), under["model"]
    changed = [f"model.{key}={here[key]}" for key in here if key != "dropout" and here[key] != there[key]]
    require(
        not changed,
        f"{', '.join(changed)} cannot be: the model is that of from={given.finetune.source}, of which only "
        "model.dropout may change; leave it out",
    )
    return config, trained, own is not None


def _newest(config: FinetuneConfig) -> Trained | None:
    """Return the newest readable checkpoint of this run, None if there is none."""
    checkpoints = checkpoints_of(config)
    for record in reversed(checkpoints.glance()[0]):
        try:
            return load_trained(str(checkpoints.path(record)))
        except ConfigError:  # `run` reports it
            continue
    return None


def finetune(plan: Plan, report: FinetuneReport) -> Outcome:
    """Run the fine-tuning; at its end print the report and add the figures to its run in wandb."""
    outcome = run(plan)
    if outcome.is_rank_zero and not outcome.stopped:
        if figures := report.score_result():
            tracker = open_tracker(plan, {})
            tracker.summary(figures)
            tracker.finish()
        print_text(f"\n{report}\n")
    return outcome


def plan_finetuning(config: FinetuneConfig, trained: Trained, is_begun: bool) -> tuple[Plan, FinetuneReport]:
    """Return the plan and its report. trained: the source, or a checkpoint of this run if it has begun."""
    domain, general, texts = _open_texts(config)
    require(
        config.train.patience is None or "heldout" in domain[0].splits,
        f"train.patience={config.train.patience} needs held-out text, which {config.data.path} has not; prepare it "
        "with heldout=, or set train.patience=null",
    )
    total_steps = domain[1].steps(config.train.epochs, config.train.max_steps)
    warmup_steps = config.finetune.warmup_steps
    if warmup_steps is None:  # decided once: a checkpoint keeps it
        warmup_steps = 0 if trained.softmax_words else round(_WARMUP_SHARE * total_steps)
        config.finetune.warmup_steps = warmup_steps
    words = trained.words if is_begun else choose_words(config, trained, domain[0], texts)
    counts = counts_of(words, texts)
    corpora = [Corpus(d, vocabulary_of(words, d.lexicon), n) for d, n in (domain, *general)]
    checkpoints, rank = checkpoints_of(config), global_rank(config.train)
    run_dir = local_path(config.run.dir, "run.dir")
    source = None if is_begun else trained
    report = FinetuneReport(config, run_dir, checkpoints, domain[0], None if is_begun or rank else trained)

    def start(bilm: LanguageModel) -> None:
        nonlocal source
        assert source is not None
        if rank == 0:
            report.score_source(source)
        initialize(bilm, source, words, counts, config)
        source = None  # frees the source, which may be as large as the model

    plan = Plan(
        config,
        corpora[0],
        lambda: tensors_of(words, np.rint(counts)),
        "finetune",
        corpora[1] if general else None,
        Freeze.checked(config.finetune.freeze, warmup_steps, config.model.num_layers),
        start,
        report.group,
        _notes(config, None if is_begun else trained, words, general),
        _identity(config, general),
    )
    return plan, report


def _open_texts(config: FinetuneConfig) -> tuple[_Read, list[_Read], list[WeightedLexicon]]:
    """Return the domain and its lanes, the general text and its lanes if any, and both texts for counting words."""
    dataset, lanes, window = open_training_data(config.data, config.data.path), config.data.lanes, config.data.window
    if not config.finetune.mix:
        of_domain = TrainLanes(dataset.splits["train"].num_tokens, lanes, window)
        return (dataset, of_domain), [], [WeightedLexicon(dataset.lexicon)]
    general = open_training_data(config.data, config.finetune.mix)
    mixed = general_lanes(lanes, config.finetune.mix_share)
    of_domain = TrainLanes(dataset.splits["train"].num_tokens, lanes - mixed, window)
    of_general = TrainLanes(general.splits["train"].num_tokens, mixed, window)
    weight = mixed * of_domain.lane_tokens / of_general.num_tokens  # the share of it that an epoch of the domain reads
    texts = [WeightedLexicon(dataset.lexicon), WeightedLexicon(general.lexicon, weight)]
    return (dataset, of_domain), [(general, of_general)], texts


def choose_words(config: FinetuneConfig, trained: Trained, dataset: Dataset, texts: list[WeightedLexicon]) -> list[str]:
    """Return the target words in the order of the softmax's rows; new vocabularies are sorted by frequency.

    data.vocab_size and data.vocab_min_count choose the domain's words from its lexicon.
    """
    kind, known = config.finetune.vocabulary, trained.softmax_words
    require(
        bool(known) or kind in ("auto", "new"),
        f"finetune.vocabulary={kind} needs a softmax, which from={config.finetune.source} has not; use new",
    )
    if known and kind in ("auto", "keep"):
        return known
    of_domain = dataset.lexicon.words(0, choose_vocabulary(dataset, config.data))
    return extended(known if kind == "extend" else of_domain, of_domain, texts)


def initialize(
    bilm: LanguageModel, trained: Trained, words: list[str], counts: np.ndarray, config: FinetuneConfig
) -> None:
    """Copy the source's weights into the biLM, whose softmax is over `words`."""
    source = trained.bilm
    bilm.core().load_state_dict(source.core().state_dict())
    shares = shares_of(counts)
    if not isinstance(source, LanguageModel):
        bilm.softmax.start_as_unigrams(torch.from_numpy(shares))
        return
    rows = rows_in(words, trained.words)
    transfer_rows(bilm.softmax, source.softmax, rows)
    source_counts = trained.counts if len(trained.counts) else np.zeros(len(trained.words))
    source_shares = np.where(rows >= 0, source_counts[rows] / max(1, source_counts.sum()), 0.0)
    encoder = source.encoder if config.finetune.new_rows == "encoder" else None
    estimate_rows(bilm.softmax, rows, words, shares, source_shares, encoder, config.model.max_characters)


def _identity(config: FinetuneConfig, general: list[_Read]) -> dict[str, Any]:
    """Return the settings that must stay the same at each start of a fine-tuning, besides those of every run."""
    return {
        "finetune.source": config.finetune.source,
        "finetune.vocabulary": config.finetune.vocabulary,
        "finetune.new_rows": config.finetune.new_rows,
        "finetune.mix": general[0][0].fingerprint if general else None,
        "finetune.mix_share": config.finetune.mix_share if general else None,
    }


def _notes(config: FinetuneConfig, source: Trained | None, words: list[str], general: list[_Read]) -> list[str]:
    notes = []
    if source is not None:
        known = len(set(words) & set(source.softmax_words))
        notes.append(f"from     {source.path}; {known:,} words have a row there, {len(words) - known:,} have not")
    if general:
        notes.append(f"mixed    {general[0][1].num_lanes} of {config.data.lanes} lanes read {config.finetune.mix}")
    return notes
