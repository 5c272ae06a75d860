"""`elmo export` and `elmo import`: a trained biLM as a folder to share, or in the files of bilm-tf and AllenNLP."""

from pathlib import Path
from typing import Any

from data_prep.dataset.locations import local_path
from pipeline.apply.load import Trained, load_trained
from pipeline.config.commands import ExportConfig, ImportConfig
from pipeline.config.schema import ConfigError, require
from pipeline.model.bilm import BiLM, num_parameters
from pipeline.model.dictionary import dictionary_of
from pipeline.model.formats.bilm_tf_options import (
    read_options,
    read_vocabulary,
    refusals,
    write_options,
    write_vocabulary,
)
from pipeline.model.formats.bilm_tf_weights import load_bilm, save_weights
from pipeline.model.formats.elmoformanylangs import load_many_langs
from pipeline.model.formats.pretrained import claim_folder, push_to_hub, save_pretrained
from pipeline.train.run_dir.records import git_revision
from pipeline.version import __version__

OPTIONS, WEIGHTS, VOCABULARY = "options.json", "weights.hdf5", "vocab.txt"
_SHOWN_OTHERS = 10
# Paths on the machine that trained: of no use to others, and private.
_PRIVATE = {"run": ("dir",), "data": ("path", "cache_dir", "stage_dir"), "finetune": ("source", "mix", "general")}


def export(config: ExportConfig) -> str:
    """Write the model to config.output in the requested format; return the text to print. Raises ConfigError."""
    require(bool(config.checkpoint), "checkpoint= is missing: give a checkpoint file, a run's folder or an export")
    require(bool(config.output), "output= is missing: give the folder to write")
    require(
        not config.hub or config.format == "elmo",
        f"hub= shares a model in this project's own format, not in format={config.format}; use format=elmo",
    )
    output = local_path(config.output, "output")
    trained = load_trained(config.checkpoint, softmax=config.format == "elmo")
    try:
        if config.format == "allennlp":
            return _export_allennlp(trained, output, config.overwrite)
        files = _export_elmo(trained, output, config)
    except OSError as error:
        raise _cannot_write(output, error) from None
    lines = [_summary(output, trained.bilm, len(trained.words), files)]
    lines += _others(output, files, is_pushed=bool(config.hub))
    if config.hub:
        lines.append(f"pushed   {push_to_hub(output, config.hub)}")
    if trained.facts.get("perplexity") is None:
        lines.append("note     the held-out perplexity of these weights is not known; README.md has none")
    return "\n".join([*lines, _next_of(output)])


def import_weights(config: ImportConfig) -> str:
    """Write a biLM of others to config.output in this project's format. Raises ConfigError."""
    _check_keys(config)
    output = local_path(config.output, "output")
    words = None
    if config.format == "elmoformanylangs":
        bilm = load_many_langs(local_path(config.path, "path"))
        source = f"{Path(config.path).resolve().name} (ELMoForManyLangs)"
    else:
        model = read_options(local_path(config.options, "options"))
        words = read_vocabulary(local_path(config.vocabulary, "vocabulary")) if config.vocabulary else None
        bilm = load_bilm(local_path(config.weights, "weights"), model)
        source = f"{Path(config.weights).name} (HDF5 of bilm-tf or AllenNLP)"
    facts = _with_version({"source": source})
    try:
        files = save_pretrained(output, bilm, words=words, facts=facts, overwrite=config.overwrite)
    except OSError as error:
        raise _cannot_write(output, error) from None
    note = "note     without a softmax, which those files leave out: it embeds, and cannot be evaluated"
    return "\n".join([_summary(output, bilm, len(words or []), files), *_others(output, files), note, _next_of(output)])


def _check_keys(config: ImportConfig) -> None:
    """Raise ConfigError unless the keys are those of the format."""
    wanted: tuple[str, ...]
    others: tuple[str, ...]
    if config.format == "elmoformanylangs":
        wanted, others = ("path",), ("options", "weights", "vocabulary")
        how = "elmo import format=elmoformanylangs path=FOLDER output=DIR"
    else:
        wanted, others, how = ("options", "weights"), ("path",), "elmo import options=FILE weights=FILE output=DIR"
    for name in (*wanted, "output"):
        require(bool(getattr(config, name)), f"{name}= is missing: {how}")
    for name in others:
        require(not getattr(config, name), f"{name}= does not go with format={config.format}; leave it out")


def _export_elmo(trained: Trained, output: Path, config: ExportConfig) -> list[Path]:
    facts = _with_version(trained.facts | ({"corpus": config.corpus} if config.corpus else {}))
    words, counts = trained.words or None, trained.counts if len(trained.counts) else None
    how: Any = {"training": _settings(trained.settings), "overwrite": config.overwrite, "hub": config.hub}
    return save_pretrained(output, trained.bilm, words=words, counts=counts, facts=facts, **how)


def _export_allennlp(trained: Trained, output: Path, overwrite: bool) -> str:
    """Write bilm-tf's files, options.json last: without it nobody reads the other files."""
    require(
        dictionary_of(trained.bilm.config) is None,
        f"{trained.path} has a dictionary of characters, for which format=allennlp has no place; use format=elmo",
    )
    claim_folder(output, (OPTIONS, WEIGHTS, VOCABULARY), marker=OPTIONS, overwrite=overwrite)
    files = [output / name for name in (WEIGHTS, VOCABULARY, OPTIONS) if trained.words or name != VOCABULARY]
    save_weights(output / WEIGHTS, trained.bilm)
    if trained.words:
        write_vocabulary(output / VOCABULARY, trained.words)
    write_options(output / OPTIONS, trained.bilm.config)
    lines = [_summary(output, trained.bilm, len(trained.words), files), *_others(output, files)]
    lines += [f"note     {line}" for line in refusals(trained.bilm.config)]
    back = f"elmo import options={output / OPTIONS} weights={output / WEIGHTS}"
    back += f" vocabulary={output / VOCABULARY}" if trained.words else ""
    lines.append(f"\nNext: in AllenNLP Elmo({str(output / OPTIONS)!r}, {str(output / WEIGHTS)!r}, 1); and back here:")
    return "\n".join([*lines, f"{back} output=DIR"])


def _settings(settings: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the run's settings without its paths and its wandb section; unknown keys stay."""
    if settings is None:
        return None
    return {part: _public(part, values) for part, values in settings.items() if part != "wandb"}


def _public(part: str, values: Any) -> Any:
    private = _PRIVATE.get(part, ())
    return {k: v for k, v in values.items() if k not in private} if isinstance(values, dict) else values


def _with_version(facts: dict[str, Any]) -> dict[str, Any]:
    return facts | {"exported_with": f"elmo-pipeline {__version__}", "git_revision": git_revision()}


def _summary(output: Path, bilm: BiLM, vocabulary: int, files: list[Path]) -> str:
    sizes = num_parameters(bilm)
    softmax = f" + softmax {sizes['softmax']:,}" if sizes["softmax"] else ""
    words = f"{vocabulary:,} words" if vocabulary else "no vocabulary"
    lines = [f"written  {output}  ({sizes['bilm']:,} parameters{softmax}, {words})"]
    return "\n".join(lines + [f"  {path.name:22}{path.stat().st_size:>16,} bytes" for path in files])


def _others(output: Path, files: list[Path], is_pushed: bool = False) -> list[str]:
    """Return a note about other files in a folder that was overwritten."""
    names = sorted(path.name for path in output.iterdir() if path not in files)
    if not names:
        return []
    shown = names if len(names) <= _SHOWN_OTHERS else [*names[:_SHOWN_OTHERS], f"{len(names) - _SHOWN_OTHERS} more"]
    listed = f"{', '.join(shown[:-1])} and {shown[-1]}" if len(shown) > 1 else shown[0]
    were, stay, are = ("was", "it stays", "is") if len(names) == 1 else ("were", "they stay", "are")
    return [f"note     {listed} {were} there before: {stay}" + (f", and {are} not pushed" if is_pushed else "")]


def _next_of(output: Path) -> str:
    return f"\nNext: elmo embed checkpoint={output} input=sentences.txt output=vectors.h5"


def _cannot_write(output: Path, error: OSError) -> ConfigError:
    reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return ConfigError(f"output={output} cannot be written ({reason}); make room, or give another folder")
