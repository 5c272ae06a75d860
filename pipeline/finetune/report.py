"""The report of a fine-tuning: held-out perplexity before and after, on the domain and on general text.

RUN_DIR/finetune.json holds the figures, which are those of Peters et al. 2018 (appendix) for the user's own domain.
Perplexities over different vocabularies cannot be compared, because more <UNK> are easier to predict; bits a character
can (pipeline/data/bits_per_character.py).
"""

import contextlib
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Predicate
from typing_extensions import NotRequired, TypedDict

from data_prep.dataset.files import write_json
from data_prep.dataset.index import INDEX
from data_prep.dataset.open import open_dataset
from data_prep.dataset.shards import Dataset
from data_prep.dataset.typed_json import Count
from pipeline.apply.load import Trained, lineage, load_trained
from pipeline.config.finetune import FinetuneConfig, FinetuneSection
from pipeline.config.schema import DataConfig, EvaluateConfig, RunConfig, WandbConfig
from pipeline.data.bits_per_character import spelling_cost
from pipeline.data.datamodule import evaluation_windows
from pipeline.data.vocabulary import vocabulary_of
from pipeline.data.windows import BatchMaker
from pipeline.model.backend.device import choose_device
from pipeline.train.fast_path.trust import fast_path
from pipeline.train.run_dir.checkpoint import CheckpointFolder
from pipeline.train.run_dir.records import read_facts
from pipeline.train.run_dir.tracking import family, read_metrics
from pipeline.train.validate import held_out_perplexity

RECORD = "finetune.json"
DOMAIN, GENERAL = "domain", "general"


class Figures(TypedDict):
    """Figures of a model on held-out text. tokens: scored each way. unknown: how many of `words` it has no row for.

    None: not finite.
    """

    forward: float | None
    backward: float | None
    both: float | None
    bits_a_character: float | None
    tokens: Count
    words: Count
    unknown: Count


class Source(TypedDict):
    """The source of the weights. pretrained_on: the corpora that it was trained on, oldest first."""

    given: str
    path: str
    step: Count
    pretrained_on: NotRequired[list[dict[str, Any]]]


class After(TypedDict):
    """Figures of the best checkpoint. last_step: step of the newest checkpoint at that time."""

    domain: NotRequired[Figures]
    general: NotRequired[Figures]
    step: Count
    last_step: Count


class Recorded(TypedDict, total=False):
    """The content of finetune.json. The first five fields are written before the first step, the others at the end."""

    source: Source
    group: str | None
    general: str
    words_before: Count
    before: dict[Literal["domain", "general"], Figures] | None
    words_after: Count
    is_comparable: bool
    start: float | None
    after: After


_AT_START = {"source", "group", "general", "words_before", "before"}  # all of them or none


def _is_whole(record: Recorded) -> bool:
    is_finished = record.keys() >= Recorded.__annotations__.keys() - _AT_START
    return record.keys() & _AT_START in (set(), _AT_START) and ("after" not in record or is_finished)


_SCHEMA = Annotated[Recorded, Predicate(_is_whole)]


def score(trained: Trained, dataset: Dataset, config: EvaluateConfig, device: torch.device) -> Figures:
    """Score the whole held-out split by full softmax."""
    split = dataset.splits["heldout"]
    vocabulary = vocabulary_of(trained.words, dataset.lexicon)
    maker = BatchMaker(dataset.lexicon, vocabulary, trained.bilm.config.max_characters)
    windows = evaluation_windows(split, maker, config)
    model = trained.language_model(f"{trained.path} has no softmax to predict words with; give a checkpoint of a run")
    found = held_out_perplexity(model, windows, config, device)
    spelling = spelling_cost(split, dataset.lexicon, vocabulary)
    bits = spelling.bits_per_character(math.log(found.both) * found.tokens)
    return {
        "forward": _finite(found.forward),
        "backward": _finite(found.backward),
        "both": _finite(found.both),
        "bits_a_character": _finite(bits),
        "tokens": found.tokens,
        "words": spelling.words,
        "unknown": spelling.unknown,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class FinetuneReport:
    """The report of a fine-tuning, on rank 0. source: of its weights; None if the run has begun."""

    def __init__(
        self,
        config: FinetuneConfig,
        run_dir: Path,
        checkpoints: CheckpointFolder,
        domain: Dataset,
        source: Trained | None,
    ) -> None:
        self._config, self._checkpoints = config, checkpoints
        self._path, self._run_dir = run_dir / RECORD, run_dir
        self._record = read_facts(self._path, _SCHEMA)
        self._is_damaged = not self._record and self._path.exists()
        self._texts = {DOMAIN: domain} if _has_heldout(domain) else {}
        general = self._general(source)
        if general is not None and general.fingerprint != domain.fingerprint and _has_heldout(general):
            self._texts[GENERAL] = general
        self._device = torch.device(choose_device(config.train.accelerator))
        # The pretraining's group in wandb, so that the pretraining and its fine-tunings are found together.
        self.group: str | None = self._record.get("group") or (None if source is None else _group_of(source))

    def _general(self, source: Trained | None) -> Dataset | None:
        given = self._config.finetune.general or self._config.finetune.mix
        if given:
            return open_dataset(given, self._config.data.cache_dir)
        known = self._record.get("general") or (_text_of(source) if source is not None else "")
        return open_dataset(known) if known and (Path(known) / INDEX).is_file() else None

    def score_source(self, source: Trained) -> None:
        """Record the figures of the source on both texts. A resumed run did it at its first start."""
        before = None
        if source.softmax_words:
            source.bilm.to(self._device)
            before = self._scores(source)
            source.bilm.to("cpu")
        given, general = self._config.finetune.source, self._texts.get(GENERAL)
        self._write(
            source={
                "given": given,
                "path": str(source.path),
                "step": source.step,
                "pretrained_on": lineage(source),
            },
            group=self.group,
            general=general.location if general is not None else "",
            words_before=len(source.softmax_words),
            before=before,
        )

    def score_result(self) -> dict[str, float]:
        """Record the figures of the best checkpoint on both texts; return all figures, {} if nothing is new."""
        whole, _ = self._checkpoints.glance()
        if not whole or self._record.get("after", {}).get("last_step") == whole[-1].step:
            return {}
        best = self._checkpoints.best()
        if best is None:
            return {}
        trained = load_trained(str(self._checkpoints.path(best)), self._device)
        figures = self._scores(trained)
        self._write(
            words_after=len(trained.words),
            is_comparable=self._config.finetune.vocabulary in ("auto", "keep"),
            start=read_metrics(self._run_dir).get(0, {}).get("val/perplexity"),
            after={**figures, "step": best.step, "last_step": whole[-1].step},
        )
        return _summary(self._record)

    def __str__(self) -> str:
        return table(self._record) if "after" in self._record else "no checkpoint could be saved: no table"

    def _scores(self, trained: Trained) -> dict[str, Figures]:
        with fast_path(self._device.type):
            return {n: score(trained, text, self._config.evaluate, self._device) for n, text in self._texts.items()}

    def _write(self, **values: Any) -> None:
        self._record |= values
        if self._is_damaged:
            self._path.replace(self._path.with_name(f"damaged-{RECORD}"))
            self._is_damaged = False
        write_json(self._path, self._record)


def _has_heldout(dataset: Dataset) -> bool:
    return "heldout" in dataset.splits and dataset.splits["heldout"].num_tokens > 0


def _text_of(source: Trained) -> str:
    """Return the location of the general text that a source was trained on, "" if its settings do not have it."""
    if "finetune" in (source.settings or {}):
        finetune = source.section("finetune", FinetuneSection)
        return finetune.general or finetune.mix
    return source.section("data", DataConfig).path


def _group_of(source: Trained) -> str | None:
    run_dir = source.path.absolute().parent.parent
    if source.path.suffix != ".ckpt" or not (run_dir / "run.json").is_file():
        return None
    earlier = read_facts(run_dir / RECORD, _SCHEMA).get("group")  # for a source that was fine-tuned itself
    with contextlib.suppress(OSError):  # the folder may not be ours to write
        group, name = source.section("wandb", WandbConfig).group, source.section("run", RunConfig).name
        return earlier or group or family(run_dir, name or None)
    return None


def table(record: dict[str, Any]) -> str:
    """Return the record as a table."""
    after, before = record["after"], record.get("before") or {}
    source = record["source"]["path"] if "source" in record else "not known"
    head = f"Held-out text before -> after fine-tuning ({source} -> step {after['step']:,}, the best)"
    columns = ("perplexity forward", "backward", "both", "bits a character", "unknown words")
    lines = [head, "", f"{'':8}" + "".join(f"{name:>22}" for name in columns)]
    for name in (DOMAIN, GENERAL):
        if name in after:
            cells = [_cell(before.get(name), after[name], key) for key in ("forward", "backward", "both")]
            cells.append(_cell(before.get(name), after[name], "bits_a_character", 3))
            cells.append(_unknown(before.get(name), after[name]))
            lines.append(f"{name:8}" + "".join(f"{cell:>22}" for cell in cells))
    return "\n".join([*lines, *_remarks(record)])


def _remarks(record: dict[str, Any]) -> list[str]:
    remarks = [""]
    if "before" not in record:
        remarks.append(f"Perplexity before is not known: {RECORD} was lost or damaged when the run was resumed.")
    elif record["before"] is None:
        remarks.append("The source had no softmax: there is no perplexity before.")
    elif not record["is_comparable"]:
        remarks += [
            f"These perplexities do NOT compare: before over {record['words_before']:,} words, after over "
            f"{record['words_after']:,}.",
            "Bits a character do: unknown words are spelled out in them, the same way before and after.",
        ]
    if record.get("start") is not None and (record.get("before") is None or not record["is_comparable"]):
        remarks.append(f"With the new words, before the first step: domain perplexity {record['start']:.1f}.")
    if GENERAL not in record["after"]:
        remarks.append("No general held-out text is known: name one with general=DIR to see what is forgotten.")
    if DOMAIN not in record["after"]:
        remarks.append("The domain has no held-out text: prepare it with heldout= to see what is gained.")
    return remarks if len(remarks) > 1 else []


def _cell(before: dict[str, Any] | None, after: dict[str, Any], key: str, digits: int = 1) -> str:
    shown = ["-" if row is None or row[key] is None else f"{row[key]:,.{digits}f}" for row in (before, after)]
    return " -> ".join(shown)


def _unknown(before: dict[str, Any] | None, after: dict[str, Any]) -> str:
    return f"{'-' if before is None else format(before['unknown'], ',')} -> {after['unknown']:,}"


def _summary(record: dict[str, Any]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for when in ("before", "after"):
        for name in (DOMAIN, GENERAL):
            row = (record.get(when) or {}).get(name, {})
            figures |= {f"finetune/{name}/{key}_{when}": value for key, value in row.items() if value is not None}
    return figures
